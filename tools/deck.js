// Keys, notes and fitting of a deck of slides. See tools/teaching.py.
const all = [...document.querySelectorAll(".slide")], where = document.getElementById("where"), toggle = document.getElementById("notes");
let now = Math.min(Math.max(Number(location.hash.slice(1)) || 1, 1), all.length) - 1, told = false;
function mark() {
  where.value = `${now + 1} / ${all.length}`;
  all.forEach((slide, i) => { const notes = slide.querySelector(".notes"); if (notes) notes.hidden = !(told && i === now); });
}
function go(to) {
  now = Math.min(Math.max(to, 0), all.length - 1);
  all[now].scrollIntoView();
  try { history.replaceState(null, "", `#${now + 1}`); } catch { /* some browsers forbid it for files */ }
  mark();
}
function fit() {
  for (const slide of all) {
    const box = slide.firstElementChild, style = getComputedStyle(slide);
    const room = innerHeight - parseFloat(style.paddingTop) - parseFloat(style.paddingBottom) - 1;
    for (let size = 1; size > 0.5; size -= 0.04) {
      box.style.setProperty("--size", size);
      box.querySelectorAll("figure img").forEach(image => {
        const most = innerHeight * 0.72 * size * image.naturalWidth / image.naturalHeight;
        image.style.setProperty("width", `${Math.min(box.clientWidth, most)}px`, "important");
      });
      const wide = [...box.querySelectorAll('mjx-container[display], .wide')].some(part =>
        part.scrollWidth > part.clientWidth + 1 || part.getBoundingClientRect().right > box.getBoundingClientRect().right + 1);
      if (box.offsetHeight <= room && !wide) break;
    }
  }
}
const steps = { ArrowRight: 1, ArrowDown: 1, PageDown: 1, ArrowLeft: -1, ArrowUp: -1, PageUp: -1 };
addEventListener("keydown", event => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key in steps) go(now + steps[event.key]);
  else if (event.key === " " && event.target.tagName !== "BUTTON") go(now + (event.shiftKey ? -1 : 1));
  else if (event.key === "Home") go(0);
  else if (event.key === "End") go(all.length - 1);
  else if (event.key === "n" || event.key === "N") tell();
  else return;
  event.preventDefault();
});
function tell() { told = !told; toggle.setAttribute("aria-pressed", told); mark(); }
document.getElementById("back").onclick = () => go(now - 1);
document.getElementById("on").onclick = () => go(now + 1);
toggle.onclick = tell;
const watch = new IntersectionObserver(seen => {
  for (const entry of seen) if (entry.isIntersecting) { now = all.indexOf(entry.target); mark(); }
}, { threshold: 0.6 });
all.forEach(slide => watch.observe(slide));
addEventListener("resize", () => { fit(); go(now); });
addEventListener("load", async () => {
  await window.MathJax?.startup?.promise;
  await document.fonts.ready;
  fit();
  go(now);
  document.body.dataset.ready = "yes";
});
