// A list that is clicked is searched by typing: what stands in its field is selected first, as it is
// when the field is reached by keyboard. A second click sets the cursor, as in any field.
"use strict";

(() => {
  const timmscope = (window.timmscope ??= {});
  if (timmscope.lists) return;
  timmscope.lists = true;

  let entered = null;

  document.addEventListener("focusin", ({ target }) => {
    entered = target.matches('input[role="combobox"]') ? target : null;
  });

  document.addEventListener("click", ({ target }) => {
    if (target === entered) target.select();
    entered = null;
  });
})();
