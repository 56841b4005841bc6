// Keys for a queue of items: every press goes to the kernel once, with the item that was on the screen.

// Where keys have a meaning of their own: fields to type in, lists and sliders to choose from.
const FIELDS = "input:not([type=checkbox]), textarea, select, [contenteditable=true], [role=slider], [role=grid]";

const SIGNS = { ArrowLeft: "←", ArrowRight: "→", space: "Space" };

// Letters and digits as printed on a Latin keyboard, so that an Arabic or a Russian layout and a French digit row work too.
function keyOf(event) {
  if (event.key === " ") return "space";
  if (/^[a-z0-9]$/i.test(event.key)) return event.key.toLowerCase();
  const place = /^(?:Key|Digit|Numpad)([A-Z0-9])$/.exec(event.code);
  return place ? place[1].toLowerCase() : event.key;
}

function render({ model, el }) {
  const bar = document.createElement("div");
  bar.className = "workbench-keys";
  bar.tabIndex = 0;
  bar.setAttribute("role", "group");
  el.replaceChildren(bar);

  const draw = () => {
    bar.replaceChildren();
    bar.setAttribute("aria-label", model.get("label"));
    for (const [key, name] of model.get("caps")) {
      const hint = document.createElement("span");
      for (const one of key.split(" ")) {
        const cap = document.createElement("kbd");
        cap.textContent = SIGNS[one] ?? one;
        hint.append(cap, " ");
      }
      hint.append(name);
      bar.append(hint);
    }
  };

  const press = (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
    if (event.target.closest(FIELDS)) {
      if (event.key === "Escape") bar.focus();
      return;
    }
    const key = keyOf(event);
    const onControl = event.target.closest("button, summary, a, input");
    if (onControl && (key === "Enter" || key === "space")) return;
    if (!model.get("caps").some(([wanted]) => wanted.split(" ").includes(key))) return;
    event.preventDefault();
    event.stopPropagation();
    // A key that is held down is one word, not one for every item that comes by.
    if (!event.repeat) model.send({ key, item: model.get("item") });
  };

  // A text that is opened with a click is opened in the kernel, too, which must know what was seen.
  const click = (event) => {
    const key = event.target.closest("summary")?.closest("[data-key]")?.dataset.key;
    if (!key) return;
    event.preventDefault();
    model.send({ key, item: model.get("item") });
  };

  // The notebook has keys of its own (d, d removes a cell): it leaves alone what carries this attribute.
  let area = null;
  const settle = () => {
    area = bar.closest(".workbench-panel") ?? bar;
    area.tabIndex = -1;
    area.setAttribute("data-lm-suppress-shortcuts", "true");
    area.addEventListener("keydown", press);
    area.addEventListener("click", click);
  };
  const frame = requestAnimationFrame(settle);
  model.on("change:caps change:label", draw);
  draw();
  return () => {
    cancelAnimationFrame(frame);
    model.off("change:caps change:label", draw);
    area?.removeEventListener("keydown", press);
    area?.removeEventListener("click", click);
  };
}

export default { render };
