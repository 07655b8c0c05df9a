
"use strict";
// Without this script the page shows everything but the sliders and the sorting.
for (const picture of document.querySelectorAll(".picture")) {
  const controls = picture.querySelector(".controls");
  const opacity = controls.querySelector(".opacity");
  const block = controls.querySelector(".block");
  const fade = () => {
    for (const tokens of picture.querySelectorAll(".heat-tokens")) {
      tokens.style.opacity = opacity.value / 100;
    }
    opacity.nextElementSibling.textContent = opacity.value + " %";
    opacity.setAttribute("aria-valuetext", opacity.value + " percent");
  };
  const choose = () => {
    for (const row of picture.querySelectorAll(".arm-row")) {
      const tiles = row.querySelectorAll(".tiles figure");
      const tile = tiles[Math.min(block.value, tiles.length - 1)];
      const now = row.querySelector(".now");
      now.querySelector(".tokens").src = tile.querySelector(".tokens").src;
      now.querySelector("figcaption").textContent = tile.querySelector("figcaption").textContent;
    }
    block.nextElementSibling.textContent = block.value;
    block.setAttribute("aria-valuetext", "block " + block.value);
  };
  opacity.addEventListener("input", fade);
  block.addEventListener("input", choose);
  controls.hidden = false;
  for (const now of picture.querySelectorAll(".now")) now.hidden = false;
  for (const blocks of picture.querySelectorAll(".blocks")) blocks.open = false;
  fade();
  choose();
}

for (const table of document.querySelectorAll(".sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const rising = head.getAttribute("aria-sort") !== "ascending";
      heads.forEach((each) => each.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", rising ? "ascending" : "descending");
      const value = (row) => row.cells[column].dataset.value;
      const missing = (row) => ["nan", "None"].includes(value(row));
      const compare = (a, b) => {
        if (missing(a) !== missing(b)) return missing(a) - missing(b); // a dash comes last
        const [one, other] = [Number(value(a)), Number(value(b))];
        const texts = Number.isNaN(one) || Number.isNaN(other);
        const order = texts ? value(a).localeCompare(value(b), "en", { numeric: true }) : one - other;
        return rising ? order : -order;
      };
      const body = table.tBodies[0];
      body.append(...[...body.rows].sort(compare));
    });
  });
}
