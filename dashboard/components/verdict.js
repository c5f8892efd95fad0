// Whether the map on the stage can be trusted: a badge, and cards that say why. The badge opens the cards and
// closes them: without a request where they are there.
//
// A verdict that comes late is about the map before: it is let go.
"use strict";

(() => {
  const timmscope = (window.timmscope ??= {});
  if (timmscope.verdict) return;

  const AREA = "explain";
  const BADGE = "test"; // the id of the badge
  const TESTS = "verdict"; // the id of the tests
  const AS_IT_IS = { __type__: "update" };
  let open = false;

  const there = () => Boolean(document.querySelector(`#${TESTS} .ts-card`));

  // Where they are open stands at the root: Gradio writes the classes of its own elements anew.
  function show(wanted) {
    open = wanted;
    document.documentElement.toggleAttribute("data-verdict", open);
    document.getElementById(BADGE)?.setAttribute("aria-expanded", String(open && there()));
  }

  // Tests that are there are shown or hidden; what is not there yet the server is asked for, and then shown.
  document.addEventListener("click", (event) => {
    if (!event.target.closest?.(`#${BADGE}`)) return;
    if (there()) event.stopPropagation();
    show(!(open && there()));
  }, { capture: true });

  document.addEventListener("keydown", ({ key, target }) => {
    if (key === "Escape" && target.closest?.(`#${BADGE}, #${TESTS}`)) show(false);
  });

  // Those of another map start closed.
  (timmscope.fillers ??= new Set()).add((root) => {
    if (root.element.closest(`#${TESTS}`)) show(open && there());
  });

  // What the button, which else asks, and the cards become.
  const made = (ask, { badge, tone, cards }) => [
    { __type__: "update", value: badge || ask, elem_classes: [`ts-badge-${tone || "unasked"}`] },
    cards ?? null,
  ];

  timmscope.verdict = {
    show,

    // Another map is on the stage: nothing is known of it, and its address was not asked for.
    clear: (ask) => [...made(ask, {}), { __type__: "update", visible: false }],

    // See `dashboard.actions.verdict.VerdictResult`.
    found: (ask, found) => (timmscope.answers.isAbout(AREA, found.about, found.layer) ? made(ask, found) : [AS_IT_IS, AS_IT_IS]),
  };
})();
