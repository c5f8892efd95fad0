// Which class and which part of a picture are chosen once there is a new one: the likeliest class and the
// model's own view, but where the page's address, an earlier answer or a person says otherwise.
// And the page's address itself, which tells the question and the view, so that a reload or another
// person sees the same.
"use strict";

(() => {
  const timmscope = (window.timmscope ??= {});
  if (timmscope.question) return;

  const NONE = -1; // stands for "no class", as in dashboard/actions/question.py
  // Fields that the address tells, with the values that it leaves out.
  const FIELDS = {
    model: null, weights: "pretrained", activation: "found", measured_in: "", target: null, versus: NONE, unit: "logit",
    against: false, crop: null, method: null, layer: null, stop_after: null, settings: {}, colormap: "auto", alpha: 0.65, strongest: 100, fade: false, smooth: true,
  };
  const VIEW = ["colormap", "alpha", "strongest", "fade", "smooth"];
  // What is chosen on the tabs beside the first, by the area of their answers; the address has it as TAB.FIELD
  // while the tab is open.
  const TABS = {
    compare: { area: "compare", fields: ["what", "methods", "layer", "method", "models", "own_class"] },
    metrics: { area: "measure", fields: ["methods", "metrics", "layer", "random_maps"] },
    features: { area: "features", fields: ["layer", "by", "top"] },
  };
  const PAUSE = 400; // milliseconds between two addresses: browsers refuse more than 100 in 30 s
  const ANY = Symbol("whatever comes first");
  let asked = {};

  // A file is known by its path; what else Gradio says of it may differ from event to event.
  const text = (value) => JSON.stringify(value?.path ?? value ?? null);
  const aboutOf = (...values) => values.map(text).join();

  // What the chosen classes and the chosen part are about. While the fields of an address are being
  // filled in, that is whatever comes first.
  const given = new URLSearchParams(window.location.search);
  const isFilledIn = [...given.keys()].some((name) => name in FIELDS || ["picture", "shared"].includes(name) || name.includes("."));
  let tab = given.get("tab");
  let shown = given.get("shown"); // of the stage: the picture, the map or both
  let subject = isFilledIn ? ANY : null;
  let part = isFilledIn ? ANY : text(null);
  let predicting = {};

  // The file's name, if it is one of the examples; other pictures are nobody's business. An upload
  // states its size, so that a picture that only has an example's name is not taken for it.
  function exampleOf(picture) {
    const name = String(picture?.path ?? "").split("/").pop();
    const bytes = timmscope.examples?.[name];
    return bytes && (picture.size ?? bytes) === bytes ? name : null;
  }

  // The name under which the server keeps the picture, where its owner has shared it: that of this page's
  // address, if the picture came with it, or the one that a press on Share gave.
  const SHARED = /[/\\]shared-picture\.(png|jpg)$/;
  const sharedNames = new Map(); // by path
  let sharing = null;

  function sharedName(picture) {
    const path = String(picture?.path ?? "");
    const fromAddress = SHARED.test(path) && (picture.size ?? null) === null;
    return sharedNames.get(path) ?? (fromAddress ? given.get("shared") : null);
  }

  const inAddress = (value) => (typeof value === "object" && value !== null ? JSON.stringify(value) : String(value ?? ""));
  let written = 0;
  let waiting = null;

  function write() {
    clearTimeout(waiting);
    [waiting, written] = [null, Date.now()];
    if (!asked.model) return;
    const query = address().toString();
    window.history.replaceState(window.history.state, "", query ? `?${query}` : window.location.pathname);
  }

  function address() {
    const query = new URLSearchParams(window.location.search);
    const values = { ...asked, ...Object.fromEntries(VIEW.map((name) => [name, timmscope.state?.[name]])) };
    for (const [name, usual] of Object.entries(FIELDS)) {
      const value = values[name];
      const told = inAddress(value);
      if (told === inAddress(usual) || told === "") query.delete(name);
      else query.set(name, told);
    }
    const set = (name, told) => (told ? query.set(name, told) : query.delete(name));
    const example = exampleOf(asked.picture);
    set("picture", example);
    set("shared", example ? null : sharedName(asked.picture));
    set("tab", tab in TABS ? tab : null);
    set("shown", shown);
    for (const [key, { area, fields }] of Object.entries(TABS)) {
      const chosen = key === tab ? timmscope.answers.askedOf(area)?.values : {};
      if (chosen) for (const name of fields) set(`${key}.${name}`, inAddress(chosen[name]));
    }
    return query;
  }

  timmscope.question = {
    // The fields are filled in with those of an address or of an earlier answer, classes and part too.
    filled({ picture, model, weights, activation, crop }) {
      subject = aboutOf(picture, model, weights, activation);
      part = text(crop);
    },

    // The fields of the page's address are filled in, if there are any. A map of some samples is asked for as such.
    restored(picture, model, weights, activation, crop) {
      const about = { picture, model, weights, activation, crop };
      timmscope.question.filled(about);
      const samples = Number(given.get("stop_after"));
      const values = { ...about, method: given.get("method"), stop_after: samples };
      if (Number.isSafeInteger(samples) && samples > 0) timmscope.answers.resume("explain", { values, same: {}, settings: null });
    },

    // The classes for a part of the picture that is new to the page. A busy browser tells of a change
    // late, when other fields were filled in with it: then the classes stay.
    classes(target, versus, crop) {
      const known = [ANY, text(crop)].includes(part);
      part = text(crop);
      return known ? [target, versus] : [null, NONE];
    },

    // The classes and the part for a picture or a model that is new to the page, likewise.
    afresh(target, versus, crop, ...about) {
      const known = [ANY, aboutOf(...about)].includes(subject);
      subject = aboutOf(...about);
      part = text(known ? crop : null);
      return known ? [target, versus, crop] : [null, NONE, null];
    },

    // Before a prediction is asked for: notes the classes that it is asked with; the last value becomes the
    // stamp.
    predicting(names, ...values) {
      const sent = (name) => text(values[names.indexOf(name)]);
      predicting = { at: timmscope.answers.stamp(), target: sent("target"), versus: sent("versus") };
      return [...values.slice(0, -1), predicting.at];
    },

    // A prediction has come, which says what the likeliest class is. A class that was chosen since it was
    // asked for stays; so it does if another prediction is on its way.
    predicted(found, target, versus) {
      const { at, ...sent } = predicting;
      const now = found?.asked_at === at && sent.target === text(target) && sent.versus === text(versus);
      return now ? [found.target, found.versus, found.target, found.versus] : [target, versus, target, versus];
    },

    // An answer has come: its question goes into the address.
    answered(values) {
      asked = values;
      timmscope.question.tell();
    },

    // What the stage is to show, where the address says it.
    shown: () => shown,

    // A person has chosen what the stage shows; null for the usual.
    show(view) {
      shown = view;
      timmscope.question.tell();
    },

    // A person has opened a tab.
    opened(name) {
      tab = name;
      timmscope.question.tell();
    },

    // Before the server is asked to share a picture.
    sharing(picture) {
      sharing = picture?.path;
      return [picture];
    },

    // The server keeps it under this name, or needs not: the address of this view, copied if the browser lets us.
    async shared(name) {
      if (name) sharedNames.set(sharing, name);
      write();
      await navigator.clipboard?.writeText(window.location.href).catch(() => {});
      return window.location.href;
    },

    // The view has changed, or the question.
    tell() {
      waiting ??= setTimeout(write, Math.max(0, written + PAUSE - Date.now()));
    },
  };

  document.addEventListener("timmscope:answers", ({ detail: area }) => {
    const answered = area === "explain" && timmscope.answers.askedOf(area);
    if (answered) timmscope.question.answered(answered.values);
    else timmscope.question.tell();
  });
})();
