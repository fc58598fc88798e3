DataTable.ext.errMode = "throw";

// Numbers, with those that aren't known last, whichever way they are sorted.
const unknownLast = (a, b, sign) => Number.isNaN(a) - Number.isNaN(b) || sign * (a - b) || 0;
DataTable.type("measured", {
  order: {
    pre: (value) => Number.parseFloat(value),
    asc: (a, b) => unknownLast(a, b, 1),
    desc: (a, b) => unknownLast(a, b, -1),
  },
});

function enhance(table) {
  const region = table.closest(".scroll");
  const heads = [...table.tHead.rows[0].cells];
  const start = heads.findIndex((head) => head.dataset.start);
  const place = heads.findIndex((head) => head.classList.contains("place"));
  const few = table.tBodies[0].rows.length <= 20; // seen at a glance
  const made = new DataTable(table, {
    paging: false,
    autoWidth: false,
    order: [[start, heads[start].dataset.start]],
    orderFixed: place < 0 ? [] : { post: [[place, "asc"]] }, // what ties keeps its place
    columnDefs: [
      { targets: "number", type: "measured" },
      { targets: "high-first", orderSequence: ["desc", "asc"] },
      { targets: "low-first", orderSequence: ["asc", "desc"] },
      { targets: "name", orderSequence: ["asc", "desc"] },
      { targets: "fixed", orderable: false, searchable: false },
    ],
    layout: { topStart: few ? null : "search", topEnd: few ? null : "info", bottomStart: null, bottomEnd: null },
    language: {
      search: `Search ${table.dataset.rows}`,
      entries: { _: table.dataset.rows, 1: table.dataset.row },
      info: "_TOTAL_ _ENTRIES-TOTAL_",
      infoEmpty: "No _ENTRIES-TOTAL_",
      infoFiltered: "of _MAX_",
      zeroRecords: "Nothing found",
    },
  });
  // The tools stay where they are while the table is scrolled.
  if (!few) region.before(region.querySelector(".dt-layout-row"));
  if (place >= 0) {
    made.on("order", () => {
      let at = 1;
      made.cells(null, place, { search: "none", order: "applied" }).every(function () {
        this.node().textContent = at++;
      });
    });
  }
}

// Tables within what is folded away wait until it is opened.
const tables = new Set(document.querySelectorAll("table.sortable"));
function enhanceOpen() {
  for (const table of tables) {
    if (!table.closest("details:not([open])")) {
      tables.delete(table);
      enhance(table);
    }
  }
}
enhanceOpen();
for (const part of document.querySelectorAll("details")) part.addEventListener("toggle", enhanceOpen);

// Many classes are searched by their names.
const classes = [...document.querySelectorAll(".acw-class")];
if (classes.length > 20) {
  const label = document.createElement("label");
  label.className = "dt-search";
  label.append("Search for a class ");
  const search = document.createElement("input");
  search.type = "search";
  search.addEventListener("input", () => {
    const wanted = search.value.trim().toLowerCase();
    for (const one of classes) one.hidden = !one.querySelector(".acw-name").textContent.toLowerCase().includes(wanted);
  });
  label.append(search);
  classes[0].before(label);
}

// A link to something folded away opens it.
function reveal() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  const part = target?.closest("details");
  if (part && !part.open) {
    part.open = true;
    target.scrollIntoView();
  }
}
addEventListener("hashchange", reveal);
reveal();

// On paper nothing is folded away.
let folded = [];
function unfold() {
  folded.push(...document.querySelectorAll("details:not([open])"));
  for (const part of folded) part.open = true;
}
function fold() {
  for (const part of folded) part.open = false;
  folded = [];
}
addEventListener("beforeprint", unfold);
addEventListener("afterprint", fold);
matchMedia("print").addEventListener("change", (media) => (media.matches ? unfold() : fold()));
