// Search, filters and sorting of the table of rows. Without this script the table shows all rows.
"use strict";

const table = document.getElementById("rows");
const rows = Array.from(table.tBodies[0].rows);
const form = document.getElementById("filters");
const count = document.getElementById("count");
const search = document.getElementById("search");
const wrong = document.getElementById("wrong");
const differs = document.getElementById("differs"); // absent without a teacher or a student
const label = document.getElementById("label"); // absent where answers are free texts

// Texts are compared in one form of Unicode and without regard to case.
function plain(text) {
  return text.normalize("NFC").toLowerCase();
}

const texts = new Map(rows.map((row) => [row, plain(row.textContent)]));

function fits(row) {
  if (!texts.get(row).includes(plain(search.value.trim()))) return false;
  const wrongSystems = row.dataset.wrong.split(" ");
  if (wrong.value && !wrong.value.split(" ").some((name) => wrongSystems.includes(name))) return false;
  if (differs && differs.checked && !("differs" in row.dataset)) return false;
  if (label && label.value && row.dataset.gold !== label.value) return false;
  return true;
}

function show() {
  let shown = 0;
  for (const row of rows) {
    row.hidden = !fits(row);
    if (!row.hidden) shown += 1;
  }
  count.textContent = `${shown} of ${rows.length} rows shown`;
}

const collator = new Intl.Collator(undefined, { numeric: true });

function sort(header) {
  const ascending = header.getAttribute("aria-sort") !== "ascending";
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", ascending ? "ascending" : "descending");
  const column = header.cellIndex;
  const sorted = rows.slice().sort((one, other) => {
    const order = collator.compare(one.cells[column].textContent, other.cells[column].textContent);
    return ascending ? order : -order;
  });
  table.tBodies[0].append(...sorted);
}

for (const header of table.tHead.rows[0].cells) {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = header.textContent;
  button.addEventListener("click", () => sort(header));
  header.replaceChildren(button);
}
form.addEventListener("input", show);
form.addEventListener("reset", () => setTimeout(show)); // when the fields are empty again
form.addEventListener("submit", (event) => event.preventDefault());
table.classList.add("sorted");
form.hidden = false;
show(); // a browser may have kept what was typed before the page was loaded again
