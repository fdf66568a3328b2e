// Looks up the row that the slider names, and shows it. Every figure is wired once, by itself;
// without scripts the control stays hidden and the table open. A page with keys of its own, such as
// slides, does not get those that move the slider.
for (const figure of document.querySelectorAll("figure.eenotes-slider:not([data-ready])")) {
  const [range, value, output, state, table, control] =
    ["input", ".value", "output", ".state", "details", ".control"].map(
      part => figure.querySelector(part));
  const rows = figure.querySelectorAll("template");
  range.addEventListener("input", () => {
    const row = rows[range.value];
    range.setAttribute("aria-valuetext", row.dataset.value);
    value.textContent = row.dataset.value;
    output.textContent = row.dataset.said;
    state.replaceChildren(row.content.cloneNode(true));
  });
  range.addEventListener("keydown", event => event.stopPropagation());
  table.open = control.hidden = false;
  figure.dataset.ready = "";
}
