// Names the value under the pointer and copies URIs. The page is complete without it.
(() => {
  "use strict";
  const svg = "http://www.w3.org/2000/svg";

  for (const chart of document.querySelectorAll("svg.chart")) {
    const points = chart.dataset.points.split(" ").map((point) => point.split(",").map(Number));
    const label = chart.parentElement.querySelector(".last");
    const usual = label.textContent;
    const cursor = document.createElementNS(svg, "line");
    cursor.setAttribute("class", "cursor");
    cursor.setAttribute("y1", 8);
    cursor.setAttribute("y2", chart.viewBox.baseVal.height - 22);
    chart.addEventListener("pointermove", (event) => {
      const box = chart.getBoundingClientRect();
      const x = ((event.clientX - box.left) / box.width) * chart.viewBox.baseVal.width;
      const near = points.reduce((best, point) => (Math.abs(point[0] - x) < Math.abs(best[0] - x) ? point : best));
      const share = chart.dataset.share === "1";
      const value = share ? `${(near[2] * 100).toFixed(1)} %` : String(near[2]);
      label.textContent = `${value.replace("-", "\u2212")} at ${near[1].toLocaleString("en")}`;
      cursor.setAttribute("x1", near[0]);
      cursor.setAttribute("x2", near[0]);
      chart.append(cursor);
    });
    chart.addEventListener("pointerleave", () => {
      label.textContent = usual;
      cursor.remove();
    });
  }

  for (const button of document.querySelectorAll("button.copy")) {
    if (!navigator.clipboard) break;
    button.hidden = false;
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(button.previousElementSibling.textContent);
      button.textContent = "copied";
      setTimeout(() => (button.textContent = "copy"), 1200);
    });
  }
})();
