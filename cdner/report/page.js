// Heat maps and the error browser. Everything is shown by textContent: what a corpus or an LLM wrote is never markup.
// Reads the JSON in #content (see page.py); fetches nothing, stores nothing.
"use strict";
(() => {
  const content = JSON.parse(document.getElementById("content").textContent);
  const BATCH = 40; // errors put on the page at a time
  const KINDS = { type: "wrong type", boundary: "wrong boundary", missed: "not found", spurious: "spurious" };

  function make(tag, attributes, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes || {})) {
      if (name === "class") made.className = value;
      else if (value !== null && value !== false) made.setAttribute(name, value === true ? "" : value);
    }
    made.append(...children.filter((child) => child !== null));
    return made;
  }

  function choice(label, name, options, changed) {
    const select = make("select", { name });
    for (const [value, text] of options) select.append(make("option", { value }, text));
    select.addEventListener("change", changed);
    return [make("label", {}, make("span", {}, label), select), select];
  }

  // --- heat maps -----------------------------------------------------------------------------------------

  function heatMaps(place) {
    if (!place) return;
    const [which, select] = choice(
      "Map", "map", content.maps.map((map, i) => [i, `${map.domain}, ${map.experiment}`]), draw);
    const dimensions = make("fieldset", { class: "dimensions" }, make("legend", {}, "Dimension"));
    const frame = make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Confusion map" });
    const said = make("p", { class: "quiet" });
    let current = "v_conf";
    if (content.maps.length > 1) place.append(make("div", { class: "controls" }, which));
    place.append(dimensions, said, frame);

    function draw() {
      const map = content.maps[select.value || 0];
      const names = map.dimensions.map((dimension) => dimension.name);
      if (!names.includes(current)) current = names[0];
      dimensions.replaceChildren(dimensions.firstChild, ...map.dimensions.map((dimension) => {
        const input = make("input", { type: "radio", name: "dimension", value: dimension.name });
        input.checked = dimension.name === current;
        input.addEventListener("change", () => { current = dimension.name; drawTable(map); });
        return make("label", { title: dimension.meaning }, input, dimension.name);
      }));
      drawTable(map);
    }

    function drawTable(map) {
      const { name, meaning, scores } = map.dimensions.find((dimension) => dimension.name === current);
      const known = scores.flat().filter((score) => score !== null);
      const low = Math.min(...known), high = Math.max(...known);
      said.textContent = `${name}: ${meaning}; from ${low.toFixed(3)} (pale) to ${high.toFixed(3)} (full).`;
      const head = make("tr", {}, make("td", {}),
        ...map.types.map((type) => make("th", { scope: "col" }, make("span", {}, type))));
      const rows = map.types.map((gold, i) => {
        const label = map.prefixes[i] ? `${map.prefixes[i]} → ${gold}` : gold;
        return make("tr", {}, make("th", { scope: "row" }, label), ...map.types.map((confused, j) => {
          const score = scores[i][j];
          if (score === null) return make("td", { class: "diagonal" });
          const rival = (map.rivals[gold] || []).includes(confused);
          const button = make("button", {
            type: "button", tabindex: i === 0 && j === 1 ? "0" : "-1",
            "aria-label": `${gold} taken for ${confused}: ${score.toFixed(3)}${rival ? ", a rival" : ""}`,
          }, score.toFixed(2).replace(/^0/, ""));
          const share = high > low ? (score - low) / (high - low) : 0;
          button.style.setProperty("--share", `${Math.round(100 * share)}%`);
          if (share > 0.72) button.className = "strong";
          button.dataset.gold = gold;
          button.dataset.predicted = confused;
          return make("td", rival ? { class: "rival" } : {}, button);
        }));
      });
      frame.replaceChildren(make("table", { class: "heat" },
        make("thead", {}, head), make("tbody", {}, ...rows)));
    }

    frame.addEventListener("click", (event) => {
      const cell = event.target.closest("button");
      if (cell && browser) browser.show({ gold: cell.dataset.gold, predicted: cell.dataset.predicted, kind: "type" });
    });
    // Arrow keys move between cells: only one of them is in the tab order.
    frame.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
      const cell = event.target.closest("button");
      if (!step || !cell) return;
      event.preventDefault();
      const rows = frame.querySelector("tbody").rows;
      let row = cell.closest("tr").sectionRowIndex, column = cell.closest("td").cellIndex;
      for (;;) {
        row += step[0];
        column += step[1];
        const next = rows[row] && column > 0 && rows[row].cells[column];
        if (!next) return;
        const button = next.querySelector("button");
        if (button) {
          cell.tabIndex = -1;
          button.tabIndex = 0;
          button.focus();
          return;
        }
      }
    });
    draw();
  }

  // --- sentences -----------------------------------------------------------------------------------------

  // spans: [start, end, class, text of the tag]; one that overlaps an earlier one is left out.
  function sentence(tokens, spans) {
    const line = make("span", { class: "sentence", dir: "auto" }); // a summary holds no paragraph
    let at = 0;
    for (const [start, end, kind, tag] of [...spans].sort((a, b) => a[0] - b[0])) {
      if (start < at) continue;
      if (start > at) line.append(tokens.slice(at, start).join(" ") + " ");
      line.append(make("mark", { class: kind }, tokens.slice(start, end).join(" "),
        make("span", { class: "tag" }, tag)), " ");
      at = end;
    }
    line.append(tokens.slice(at).join(" "));
    return line;
  }

  const overlap = (a, b) => a[0] < b[1] && b[0] < a[1];

  function goldLine(tokens, gold) {
    return sentence(tokens, gold.map(([start, end, type]) => [start, end, "gold", content.types[type]]));
  }

  function predictedLine(tokens, gold, predicted) {
    const spans = predicted.map((span) => {
      const same = gold.find((other) => other[0] === span[0] && other[1] === span[1]);
      const right = same && same[2] === span[2];
      const kind = right ? "right" : same ? "wrong" : gold.some((other) => overlap(other, span)) ? "bounds" : "extra";
      return [span[0], span[1], kind, (right ? "✓ " : "✗ ") + content.types[span[2]]];
    });
    const missed = gold.filter((span) => !predicted.some((other) => overlap(other, span)))
      .map(([start, end, type]) => [start, end, "missed", `not found: ${content.types[type]}`]);
    return sentence(tokens, [...spans, ...missed]);
  }

  // --- error browser -------------------------------------------------------------------------------------

  function errorBrowser(place) {
    if (!place) return null;
    const typed = (index) => [...new Set(content.errors.map((error) => error[index]))]
      .filter((type) => type >= 0).map((type) => content.types[type]).sort().map((type) => [type, type]);
    const experiments = new Set(content.models.map((model) => model.experiment));
    const named = (model) => {
      const corpus = content.corpora[model.corpus].name;
      return experiments.size > 1 ? `${model.setting} (${model.experiment}, ${corpus})` : `${model.setting} (${corpus})`;
    };
    const anything = [["", "any"]];
    const [modelLabel, model] = choice(
      "Setting", "model", [...anything, ...content.models.map((one, i) => [String(i), named(one)])], filter);
    const [kindLabel, kind] = choice(
      "Kind", "kind", [...anything, ...content.kinds.map((one) => [one, KINDS[one]])], filter);
    const [goldLabel, gold] = choice("Gold", "gold", [...anything, ...typed(3)], filter);
    const [predictedLabel, predicted] = choice("Predicted", "predicted", [...anything, ...typed(4)], filter);
    const text = make("input", { type: "search", name: "text", placeholder: "words of the sentence" });
    const reset = make("button", { type: "button" }, "Clear");
    const count = make("p", { role: "status", class: "count" });
    const list = make("ol", { class: "errors" });
    const more = make("button", { type: "button", class: "more" }, "Show more");
    place.append(
      make("form", { class: "controls", role: "search" }, modelLabel, kindLabel, goldLabel, predictedLabel,
        make("label", {}, make("span", {}, "Text"), text), reset),
      count, list, more);

    // Lower-case text of every sentence, once.
    const searched = content.corpora.map((corpus) =>
      corpus.sentences.map(([tokens]) => tokens.join(" ").toLowerCase()));
    let found = [], n_shown = 0;

    function filter() {
      const m = model.value === "" ? -1 : Number(model.value), k = content.kinds.indexOf(kind.value);
      const g = content.types.indexOf(gold.value), p = content.types.indexOf(predicted.value);
      const words = text.value.toLowerCase().split(/\s+/).filter(Boolean);
      found = content.errors.filter((error) =>
        (m < 0 || error[0] === m) && (k < 0 || error[2] === k) && (g < 0 || error[3] === g)
        && (p < 0 || error[4] === p)
        && words.every((word) => searched[content.models[error[0]].corpus][error[1]].includes(word)));
      count.textContent = `${found.length.toLocaleString("en")} of ${content.errors.length.toLocaleString("en")} errors`;
      list.replaceChildren();
      n_shown = 0;
      showMore();
    }

    function showMore() {
      const batch = found.slice(n_shown, n_shown + BATCH);
      n_shown += batch.length;
      list.append(...batch.map(row));
      more.hidden = n_shown >= found.length;
    }

    function row(error) {
      const [m, position, k, g, p, start, end] = error;
      const one = content.models[m];
      const tokens = content.corpora[one.corpus].sentences[position][0];
      const goldType = g < 0 ? null : content.types[g], predictedType = p < 0 ? null : content.types[p];
      const change = make("span", { class: "change" },
        make("b", { class: "gold" }, goldType ?? "nothing"), " → ",
        make("b", { class: "wrong" }, predictedType ?? "nothing"));
      const kindName = content.kinds[k];
      const llm = verdictsOf(one, position).filter((said) => said[0] === start && said[1] === end)
        .map(([, , type, share]) => `, LLM: ${content.types[type]} ${share.toFixed(2)}`).join("");
      const heading = make("summary", {}, change,
        make("span", { class: "quiet" }, `${KINDS[kindName]}, ${named(one)}, sentence ${position}${llm}`),
        sentence(tokens, [[start, end, kindName === "missed" ? "missed" : "wrong", goldType ?? predictedType]]));
      const details = make("details", {}, heading);
      details.addEventListener("toggle", () => {
        if (details.open && details.childElementCount === 1) details.append(detail(one, position));
      });
      return make("li", {}, details);
    }

    // Gold and what every model of the same sentences made of it, those of the same experiment first.
    function detail(one, position) {
      const [tokens, goldSpans] = content.corpora[one.corpus].sentences[position];
      const panel = (title, ...inside) => make("div", { class: "panel" }, make("h3", {}, title), ...inside);
      const side = (model) => {
        const predicted = model.predicted[position];
        const made = panel(named(model),
          predicted ? predictedLine(tokens, goldSpans, predicted) : make("p", { class: "quiet" }, "not predicted"),
          verdicts(model, position, tokens),
          reasoning(model.reasoning[position]));
        if (model.reasoning[position]) made.classList.add("wide");
        return made;
      };
      const same = content.models.filter((model) => model.corpus === one.corpus);
      const near = same.filter((model) => model.experiment === one.experiment);
      const far = same.filter((model) => model.experiment !== one.experiment);
      const panels = make("div", { class: "panels" }, panel("Gold", goldLine(tokens, goldSpans)), ...near.map(side));
      if (!far.length) return panels;
      const others = make("details", { class: "folded" }, make("summary", {}, `${far.length} other models`));
      others.addEventListener("toggle", () => {
        if (others.open && others.childElementCount === 1) {
          others.append(make("div", { class: "panels" }, ...far.map(side)));
        }
      });
      return make("div", {}, panels, others);
    }

    const verdictsOf = (model, position) => model.verdicts[position] ?? [];

    function verdicts(model, position, tokens) {
      const said = verdictsOf(model, position).map(([start, end, type, share]) =>
        `${tokens.slice(start, end).join(" ")}: ${content.types[type]} ${share.toFixed(2)}`);
      return said.length ? make("p", { class: "quiet verdicts", dir: "auto" }, `LLM: ${said.join("; ")}`) : null;
    }

    function reasoning(texts) {
      if (!texts) return null;
      const [initial, bidirectional] = texts;
      return make("div", { class: "reasoning" },
        ...[["Initial reasoning", initial], ["Bidirectional reasoning", bidirectional]]
          .filter(([, said]) => said)
          .map(([title, said]) =>
            make("div", {}, make("h4", {}, title), make("p", { class: "foreign", dir: "auto", tabindex: "0" }, said))));
    }

    function show(wanted) {
      model.value = "";
      text.value = "";
      kind.value = wanted.kind ?? "";
      for (const [select, value] of [[gold, wanted.gold], [predicted, wanted.predicted]]) {
        // A pair that never occurred is no option yet; it shows that there are none.
        if (value && ![...select.options].some((option) => option.value === value)) {
          select.append(make("option", { value }, value));
        }
        select.value = value ?? "";
      }
      filter();
      place.closest("section").scrollIntoView({ block: "start" });
      (list.querySelector("summary") ?? gold).focus({ preventScroll: true });
    }

    place.querySelector("form").addEventListener("submit", (event) => event.preventDefault());
    text.addEventListener("input", filter);
    reset.addEventListener("click", () => { for (const one of [model, kind, gold, predicted, text]) one.value = ""; filter(); });
    more.addEventListener("click", () => {
      const next = n_shown;
      showMore();
      list.children[next]?.querySelector("summary").focus();
    });
    new IntersectionObserver((entries) => {
      if (entries.some((entry) => entry.isIntersecting) && !more.hidden && n_shown >= BATCH) showMore();
    }, { rootMargin: "400px" }).observe(more);
    filter();
    return { show };
  }

  const browser = errorBrowser(document.getElementById("browser"));
  heatMaps(document.getElementById("maps"));
})();
