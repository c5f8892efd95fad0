// The keyboard's place, while parts of the page are rebuilt or out of use.
"use strict";

(() => {
  const timmscope = (window.timmscope ??= {});
  if (timmscope.focus) return;

  const held = new WeakMap(); // by part of the page, what had the focus in it, and its name

  const nameOf = (element) => `${element.tagName} ${element.getAttribute("aria-label") ?? element.textContent}`;
  const usable = (element) => element.isConnected && !element.disabled && !element.closest("[inert]") && element.getClientRects().length > 0;

  // The same element, or the one that has its name now.
  const again = (part, { element, name }) => (
    [element, ...part.querySelectorAll("button, input, [tabindex]")].find((one) => usable(one) && nameOf(one) === name)
  );

  timmscope.focus = {
    // Changes a part of the page. The focus stays where it was in it; while that is not possible, the part has it.
    keep(part, change) {
      const { activeElement } = document;
      if (activeElement !== part && part.contains(activeElement)) held.set(part, { element: activeElement, name: nameOf(activeElement) });
      const had = part.contains(activeElement) && held.get(part);
      change();
      if (!had) return;
      const next = again(part, had) ?? part;
      if (next === part) part.tabIndex = -1;
      if (next !== document.activeElement) next.focus({ preventScroll: true });
    },
  };
})();
