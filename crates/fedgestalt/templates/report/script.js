
// Names the pair of syndromes under the pointer or, by arrow keys, under the cursor. The page is whole without it.
for (const heat of document.querySelectorAll(".heat")) {
  const names = JSON.parse(heat.dataset.names);
  const levels = Uint8Array.from(atob(heat.dataset.levels), (c) => c.charCodeAt(0));
  const low = Number(heat.dataset.low);
  const high = Number(heat.dataset.high);
  const hit = heat.querySelector(".hit");
  const cursor = heat.querySelector(".cursor");
  const readout = heat.parentElement.querySelector(".readout");
  const size = names.length;
  const cell = hit.width.baseVal.value / size;
  let row = -1;
  let column = -1;
  const show = (newRow, newColumn) => {
    row = Math.max(0, Math.min(size - 1, newRow));
    column = Math.max(0, Math.min(size - 1, newColumn));
    const level = levels[row * size + column];
    const between = row === column ? names[row] + " (within)" : names[row] + " × " + names[column];
    const distance = level === 255 ? "not measured" : "≈ " + (low + (level / 254) * (high - low)).toFixed(2);
    readout.textContent = between + ": " + distance;
    cursor.setAttribute("x", hit.x.baseVal.value + column * cell);
    cursor.setAttribute("y", hit.y.baseVal.value + row * cell);
    cursor.classList.add("on");
  };
  hit.addEventListener("pointermove", (event) => {
    const box = hit.getBoundingClientRect();
    const at = (offset, length) => Math.floor((offset / length) * size);
    show(at(event.clientY - box.top, box.height), at(event.clientX - box.left, box.width));
  });
  heat.addEventListener("keydown", (event) => {
    const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    if (step) {
      event.preventDefault();
      show(row + step[0], column + step[1]);
    }
  });
}
