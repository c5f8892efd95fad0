// The badge beside a map opens the tests that it tells of, and closes them: without a request where they are there.
"use strict";

(() => {
  const timmscope = (window.timmscope ??= {});
  if (timmscope.verdict) return;

  const BADGE = "test"; // the id of the badge
  const TESTS = "verdict"; // the id of the tests
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

  timmscope.verdict = { show };
})();
