/* A click on a figure shows it as large as the window; a second click, or Escape, closes it. */
document.addEventListener("DOMContentLoaded", () => {
  const pictures = document.querySelectorAll(".bd-article figure picture img, .bd-article figure.landing img");
  if (!pictures.length) return;
  const dialog = document.createElement("dialog");
  dialog.className = "enlarged";
  dialog.setAttribute("aria-label", "Enlarged figure; Escape closes it");
  document.body.append(dialog);
  dialog.addEventListener("click", () => dialog.close());
  // The theme keeps Escape from closing a dialog by itself.
  document.addEventListener("keydown", event => {
    if (event.key === "Escape" && dialog.open) dialog.close();
  });

  const open = picture => {
    const large = new Image();
    large.src = picture.currentSrc || picture.src;
    large.alt = picture.alt;
    dialog.replaceChildren(large);
    dialog.showModal();
  };
  for (const picture of pictures) {
    picture.tabIndex = 0;
    picture.setAttribute("role", "button");
    picture.title = "Enlarge";
    picture.addEventListener("click", () => open(picture));
    picture.addEventListener("keydown", event => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      open(picture);
    });
  }
});
