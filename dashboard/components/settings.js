// The parameters that a person changed, by method or metric (see settings.py).
"use strict";

(() => {
  const timmscope = (window.timmscope ??= {});
  if (timmscope.settings) return;

  const without = (values, name) => Object.fromEntries(Object.entries(values).filter(([key]) => key !== name));

  timmscope.settings = {
    // All settings with another value; one of the usual values is left out.
    put(key, name, usual, value, kept) {
      const own = without(kept?.[key] ?? {}, name);
      if (!usual.some((one) => JSON.stringify(one) === JSON.stringify(value))) own[name] = value;
      const others = without(kept ?? {}, key);
      return Object.keys(own).length ? { ...others, [key]: own } : others;
    },
  };
})();
