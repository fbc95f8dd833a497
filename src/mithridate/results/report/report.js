"use strict";
// Draws the charts from the JSON in the page. All numbers as text come ready-made; nothing is rounded here.
{
  const data = JSON.parse(document.getElementById("data").textContent);
  const figures = [...document.querySelectorAll("figure[data-chart]")];
  const printed = { on: false, size: { autosize: false, width: 660, height: 270 }, opened: [] };

  const colour = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  // Plotly reads labels as a kind of HTML: names from the data must stay text.
  const plain = text => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
  const named = line => (data.runs.length > 1 ? `${data.runs[line.run].name}: ` : "") + line.name;
  const checked = (figure, kind) => figure.querySelector(`input.${kind}`)?.checked ?? false;
  const switchedOff = kind => new Set(
    [...document.querySelectorAll(`input.${kind}:not(:checked)`)].map(box => Number(box.value)));

  function chosen(figure) {
    const chart = data.charts[figure.dataset.chart];
    const id = figure.querySelector("select")?.value ?? chart.choices[0].id;
    return [chart, chart.choices.find(choice => choice.id === id)];
  }

  function shown(figure) {
    const [chart, choice] = chosen(figure);
    const lines = chart.lines.filter(line => line.choice === choice.id);
    if (chart.steps) return lines;
    const [policies, runs] = [switchedOff("policy"), switchedOff("run")];
    return lines.filter(line => !policies.has(line.policy) && !runs.has(line.run)
      && (line.role !== "baseline" || checked(figure, "baseline")));
  }

  function band(line, hue) {
    const sound = line.x.map((_, i) => i).filter(i => line.low[i] != null && line.high[i] != null);
    const back = [...sound].reverse();
    return {
      x: [...sound, ...back].map(i => line.x[i]),
      y: [...sound.map(i => line.high[i]), ...back.map(i => line.low[i])],
      mode: "lines", line: { width: 0 }, fill: "toself", fillcolor: hue + "1f", hoverinfo: "skip",
    };
  }

  function trace(line, chart) {
    const policy = data.policies[line.policy];
    const several = data.runs.length > 1;
    const hue = line.role === "clean" ? colour("--muted") : colour(`--c${policy.colour}`);
    const long = line.x.length > 30;
    // Policies often coincide: lines drawn later are thinner, so that those below stay visible.
    const width = 3.2 - 1.7 * line.policy / Math.max(data.policies.length - 1, 1);
    const minor = line.role !== "attack";
    const dash = several ? data.runs[line.run].dash : line.group ? data.dashes[(line.group - 1) % 7] : policy.dash;
    const drawn = {
      x: line.x, y: line.y, name: "", connectgaps: false,
      customdata: line.told.map(told => plain(`${named(line)}: ${told}`)),
      hovertemplate: "%{customdata}<extra></extra>",
      mode: minor || long ? "lines" : "lines+markers",
      line: {
        color: hue, width: minor ? 1.5 : width, shape: chart.steps ? "hvh" : "linear",
        dash: minor ? "2px,3px" : chart.steps ? "solid" : dash,
      },
      marker: { color: hue, size: 5 + 1.5 * width, symbol: policy.symbol },
    };
    if (line.group) {
      drawn.mode += "+text";
      drawn.text = line.x.map((_, i) => i === line.x.length - 1 ? ` λ ${line.group}` : "");
      drawn.textposition = "middle right";
      drawn.cliponaxis = false;
    }
    return [hue, drawn];
  }

  function axis(title, suffix) {
    return {
      title: { text: plain(title), standoff: 12 }, ticksuffix: suffix, fixedrange: true,
      gridcolor: colour("--line"), zerolinecolor: colour("--line"), linecolor: colour("--muted"), automargin: true,
    };
  }

  function draw(figure) {
    const [chart, choice] = chosen(figure);
    const lines = shown(figure);
    const traces = [];
    for (const line of lines) {
      const [hue, drawn] = trace(line, chart);
      if (line.low.length && line.role === "attack" && checked(figure, "interval")) traces.push(band(line, hue));
      traces.push(drawn);
    }
    const [x, y] = [axis(chart.x_label, chart.x_suffix), axis("", choice.suffix)];
    if (choice.suffix || chart.steps) y.rangemode = "tozero";
    if (chart.x_suffix) x.hoverformat = ".1f";
    Object.assign(x, { showspikes: true, spikecolor: colour("--muted"), spikethickness: 1, spikedash: "solid" });
    const layout = {
      xaxis: x, yaxis: y, showlegend: false, hovermode: "x unified", hoverdistance: -1, dragmode: false,
      ...(printed.on ? printed.size : { autosize: true }),
      margin: { l: 52, r: lines.some(line => line.group) ? 40 : 16, t: 12, b: 48 },
      paper_bgcolor: colour("--page"), plot_bgcolor: colour("--page"),
      font: { family: getComputedStyle(document.body).fontFamily, size: 13, color: colour("--ink") },
      hoverlabel: { bgcolor: colour("--card"), bordercolor: colour("--line"), font: { color: colour("--ink") } },
    };
    figure.querySelector(".ylabel").textContent = chart.steps ? "how many weights" : choice.label;
    const plot = figure.querySelector(".plot");
    Plotly.react(plot, traces, layout, { responsive: true, displayModeBar: false, doubleClick: false });
    const ends = lines.map(line => `${named(line)}: ${line.told[0]} to ${line.told.at(-1)}`);
    plot.setAttribute("aria-label",
      `Chart of ${choice.label} by ${chart.x_label}. ` + (chart.steps ? "" : ends.join("; ") + ". ") + "Table below.");
    for (const table of figure.querySelectorAll("[data-choice]")) table.hidden = table.dataset.choice !== choice.id;
  }

  const drawAll = () => figures.forEach(draw);

  // On paper: light colours, a width that fits the page, everything unfolded.
  function printing(on) {
    if (on === printed.on) return;
    printed.on = on;
    document.documentElement.classList.toggle("printing", on);
    if (on) printed.opened = [...document.querySelectorAll("details:not([open])")];
    for (const details of printed.opened) details.open = on;
    drawAll();
  }

  for (const figure of figures) {
    figure.addEventListener("change", event => {
      const box = event.target;
      // The same defender or run is switched in every chart at once.
      for (const kind of ["policy", "run"]) {
        if (!box.classList.contains(kind)) continue;
        for (const twin of document.querySelectorAll(`input.${kind}[value="${box.value}"]`)) twin.checked = box.checked;
        return drawAll();
      }
      draw(figure);
    });
  }
  const paper = matchMedia("print");
  paper.addEventListener("change", () => printing(paper.matches));
  addEventListener("beforeprint", () => printing(true));
  addEventListener("afterprint", () => printing(false));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
  drawAll();
}
