// The curve that is inspected, large, with a cursor at the step that is shown beside it. Moving the cursor or
// choosing another curve draws here, without asking the server.
"use strict";

(() => {
  const timmscope = (window.timmscope ??= {});
  if (timmscope.curves) return;

  const stages = new Set();
  let at = { method: "", metric: "", share: 0 };

  // The height of a line at a place between two of its points.
  function heightAt({ x, y }, place) {
    const next = x.findIndex((value) => value >= place);
    if (next < 0) return y.at(-1);
    if (next === 0) return y[0];
    const part = (place - x[next - 1]) / (x[next] - x[next - 1] || 1);
    return y[next - 1] + part * (y[next] - y[next - 1]);
  }

  // A figure with the chosen line in front, and the cursor on it.
  function withCursor({ data, layout }, { method, share }) {
    const chosen = data.find((line) => line.meta === method);
    if (!chosen) return { data, layout };
    const lines = data.map((line) => (line === chosen ? { ...line, line: { ...line.line, width: 3.5 } } : { ...line, opacity: 0.55 }));
    const point = {
      type: "scatter", mode: "markers", x: [share], y: [heightAt(chosen, share)], showlegend: false, hoverinfo: "skip",
      marker: { size: 13, color: chosen.line.color, line: { color: "#ffffff", width: 2.5 } },
    };
    const rule = { type: "line", x0: share, x1: share, y0: 0, y1: 1, yref: "paper", line: { color: "rgba(128,128,140,0.7)", width: 1.5, dash: "dot" } };
    return { data: [...lines, point], layout: { ...layout, shapes: [rule] } };
  }

  class Stage {
    constructor(root, props, trigger) {
      this.root = root;
      this.card = { value: "", colormaps: props.colormaps, view: props.view };
      timmscope.mount(root, this.card, trigger, (_, redraw) => { this.redraw = redraw; });
    }

    set(text) {
      const { panels, pictures, answer } = JSON.parse(text || '{"panels": [], "pictures": []}');
      if (answer) timmscope.answers.arrived(answer);
      Object.assign(this, { panels, pictures });
      this.draw();
    }

    draw() {
      const { panels, pictures } = this;
      const shown = panels.find((panel) => panel.figure.layout.meta === at.metric) ?? panels[0];
      const drawn = shown ? [{ ...shown, figure: withCursor(shown.figure, at) }] : [];
      this.card.value = JSON.stringify({ panels: drawn, pictures });
      this.redraw();
    }
  }

  timmscope.curves = {
    mount(root, props, trigger, watch) {
      const stage = new Stage(root, props, trigger);
      stages.add(stage);
      stage.set(props.value);
      watch("value", () => stage.set(props.value));
    },

    // Which curve is inspected, as "method metric", and at how many per cent.
    point(curve, percent) {
      const [, method = "", metric = ""] = /^(.*) (\S+)$/.exec(curve ?? "") ?? [];
      at = { method, metric, share: percent / 100 };
      for (const stage of stages) {
        if (stage.root.isConnected) stage.draw();
        else stages.delete(stage);
      }
    },
  };
})();
