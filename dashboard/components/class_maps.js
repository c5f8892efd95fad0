// Small maps beside the likeliest classes (see class_maps.py): whether they are wanted, and whether they
// still answer what the page asks. The rows themselves are those of classes.js.
"use strict";

(() => {
  const timmscope = (window.timmscope ??= {});
  if (timmscope.classMaps) return;

  const AREA = "class-maps"; // as answers.js knows them
  const STOPPED = "Small maps: cancelled. Press the button to try again.";
  let wanted = false;
  let trigger = null;
  let maps = new Map(); // panels by class
  let note = "";
  let stopped = false;
  let timer = 0;

  const isFresh = () => Boolean(timmscope.answers?.isFresh(AREA));

  // What the rows are to show; null for no maps at all.
  const shown = () => (wanted ? { maps, note: isFresh() ? note : (stopped ? STOPPED : "Small maps …"), stale: !isFresh() } : null);

  const tell = () => timmscope.classes?.showMaps(shown());

  function ask() {
    stopped = false;
    if (wanted && !isFresh()) trigger?.("submit", {});
    tell();
  }

  document.addEventListener("timmscope:answers", ({ detail }) => { if (detail === AREA) tell(); });

  timmscope.classMaps = {
    shown,

    mount(element, props, fire, watch) {
      trigger = fire;
      watch("value", () => {
        const { classes = [], note: told = "" } = JSON.parse(props.value || "{}");
        const { panels, answer } = timmscope.decode(props.value);
        maps = new Map(classes.map((index, i) => [index, panels[i]]));
        note = told;
        if (answer) timmscope.answers.arrived(answer);
        tell();
      });
    },

    toggle() {
      wanted = stopped || !wanted;
      ask();
    },

    // There is something new on the stage: maps are asked for once it has been there for so long.
    follow(milliseconds, names, ...values) {
      timmscope.answers.changed(AREA, names, ...values);
      clearTimeout(timer);
      timer = setTimeout(ask, milliseconds);
      tell();
    },

    cancel() {
      clearTimeout(timer);
      stopped = !isFresh();
      tell();
    },

    redraw: tell,
  };
})();
