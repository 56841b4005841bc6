// One page of a table: rows are chosen with the mouse, the arrow keys, Enter or Space. Texts are set as text, never as HTML.
function draw(model, el) {
  const page = model.get("page"), columns = model.get("columns"), first = model.get("first");
  const chosen = model.get("chosen"), had = el.contains(document.activeElement);
  const table = document.createElement("table");
  table.className = "workbench-rows";
  table.setAttribute("role", "grid");
  table.setAttribute("aria-rowcount", String(model.get("total")));
  const caption = table.createCaption();
  caption.textContent = model.get("caption");
  const head = table.createTHead().insertRow();
  for (const name of columns) {
    const cell = document.createElement("th");
    cell.scope = "col";
    cell.textContent = name;
    head.appendChild(cell);
  }
  const body = table.createTBody();
  page.forEach((texts, at) => {
    const row = body.insertRow(), place = first + at;
    row.dataset.place = String(place);
    row.setAttribute("aria-rowindex", String(place + 1));
    row.setAttribute("aria-selected", String(place === chosen));
    row.tabIndex = place === chosen || (at === 0 && !(chosen >= first && chosen < first + page.length)) ? 0 : -1;
    for (const text of texts) {
      const cell = row.insertCell();
      cell.dir = "auto";
      cell.textContent = text;
      if (text.length > 24) cell.title = text;
    }
    row.addEventListener("click", () => choose(model, place));
    row.addEventListener("keydown", (event) => move(model, event, place));
  });
  el.replaceChildren(table);
  if (!page.length) {
    const none = document.createElement("p");
    none.className = "workbench-none";
    none.textContent = model.get("empty");
    el.appendChild(none);
  }
  if (had) el.querySelector('tr[tabindex="0"]')?.focus();
}

function choose(model, place) {
  model.set("chosen", place);
  model.save_changes();
}

function move(model, event, place) {
  const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: model.get("size"), PageUp: -model.get("size") };
  const total = model.get("total");
  let to = place;
  if (event.key in steps) to = Math.min(Math.max(place + steps[event.key], 0), total - 1);
  else if (event.key === "Home") to = 0;
  else if (event.key === "End") to = total - 1;
  else if (event.key !== "Enter" && event.key !== " ") return;
  event.preventDefault();
  event.stopPropagation();
  choose(model, to);
}

function render({ model, el }) {
  el.classList.add("workbench-grid");
  let due = 0;
  const later = () => { cancelAnimationFrame(due); due = requestAnimationFrame(() => draw(model, el)); };
  for (const name of ["page", "columns", "chosen", "first", "total"]) model.on(`change:${name}`, later);
  draw(model, el);
  return () => model.off(null, later);
}
export default { render };
