// What a card draws, from what the server sent: values, colours and opacity. Nothing here touches the page.
"use strict";

(() => {
  const timmscope = (window.timmscope ??= {});
  if (timmscope.values) return;

  // The rows of a map that core/views/maps.py packed.
  function unpack({ bdata, dtype, shape: [height, width], lo, hi }) {
    const bytes = Uint8Array.from(atob(bdata), (c) => c.charCodeAt(0));
    const view = new DataView(bytes.buffer);
    const wide = dtype === "u2";
    const step = (hi - lo) / (wide ? 65535 : 255);
    const values = Float32Array.from({ length: height * width }, (_, i) => (
      lo + (wide ? view.getUint16(2 * i, true) : bytes[i]) * step
    ));
    return Array.from({ length: height }, (_, row) => values.subarray(row * width, (row + 1) * width));
  }

  // The colours and the opacity of a map in a view of the page.
  // Maps without a picture under them have nothing to show through: they stay opaque.
  // Of a map over a picture, values nearer to zero than `cut` are clear.
  function look(panel, { colormap = "auto", alpha = 1, fade = false, smooth = true }, colormaps, cut = 0) {
    const over = Boolean(panel.figure.layout.images);
    const stops = (colormaps[colormap] ?? colormaps.auto)[panel.signed ? "signed" : "unsigned"];
    const faded = stops.map(([at, colour, a]) => [at, colour, over && fade ? a : 1]);
    const trace = panel.smoothing && !smooth ? panel.smoothing.unsmoothed : panel.figure.data[0];
    const shown = over && cut > 0 ? withoutWeak(faded, trace.zmin, trace.zmax, cut) : faded;
    const colorscale = shown.map(([at, [r, g, b], a]) => [at, `rgba(${r},${g},${b},${a})`]);
    return { opacity: over ? Number(alpha) : 1, colorscale };
  }

  // The colour stops of a range, with values nearer to zero than `cut` clear.
  function withoutWeak(stops, low, high, cut) {
    const share = (value) => Math.min(Math.max((value - low) / (high - low), 0), 1);
    const [from, to] = [low < 0 ? share(-cut) : 0, high > 0 ? share(cut) : 1];
    const bare = ([at, colour]) => [at, colour, 0];
    const [first, last] = [colourAt(stops, from), colourAt(stops, to)];
    return [
      ...(from > 0 ? [...stops.filter(([at]) => at < from), first] : []),
      bare(first), bare(last),
      ...(to < 1 ? [last, ...stops.filter(([at]) => at > to)] : []),
    ];
  }

  // The stop at a position between others.
  function colourAt(stops, at) {
    const after = Math.max(stops.findIndex(([end]) => end >= at), 1);
    const [[start, dark, faint], [end, light, strong]] = [stops[after - 1], stops[after]];
    const part = end > start ? (at - start) / (end - start) : 0;
    const mix = (one, other) => one + part * (other - one);
    return [at, dark.map((one, i) => Math.round(mix(one, light[i]))), mix(faint, strong)];
  }

  // All sizes of the values of a map, in ascending order.
  const sizesOf = (rows) => Float32Array.from(rows.flatMap((row) => Array.from(row, Math.abs))).sort();

  // The size that the strongest per cent of a map's values reach; 0 for all of them.
  function cutOf(sizes, percent) {
    if (percent >= 100) return 0;
    const kept = Math.round((percent / 100) * sizes.length);
    return kept ? sizes[sizes.length - kept] : Infinity;
  }

  // A map's trace, ready to draw. A smoothed map shows local means; its own values are told in both cases.
  function ofMap(trace, { smoothing }, smooth) {
    const z = unpack(trace.z);
    if (!smoothing) return { ...trace, z };
    return { ...trace, ...(smooth ? { z: unpack(smoothing.z) } : { ...smoothing.unsmoothed, z }), customdata: z };
  }

  // A panel in the range of colours that it shares with others, or in its own.
  function inRange(panel, together) {
    if (!together || !panel.shared) return panel;
    const { signed, drawn, unsmoothed } = panel.shared;
    const data = panel.figure.data.map((trace) => ({ ...trace, ...drawn }));
    const smoothing = panel.smoothing && { ...panel.smoothing, unsmoothed };
    return { ...panel, signed, smoothing, figure: { ...panel.figure, data } };
  }

  timmscope.values = { unpack, look, inRange, ofMap, sizesOf, cutOf, withoutWeak };
})();
