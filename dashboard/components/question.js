// Which class and which part of a picture are to be chosen once there is a new one, where these are not
// the likeliest class and the model's own view: the page's address or an earlier answer may say so.
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
    against: false, crop: null, method: null, layer: null, settings: {}, colormap: "auto", alpha: 0.65, strongest: 100, fade: false, smooth: true,
  };
  const VIEW = ["colormap", "alpha", "strongest", "fade", "smooth"];
  let wanted = null;
  let asked = {};

  const given = new URLSearchParams(window.location.search);
  const number = (text) => (/^-?\d+$/.test(text ?? "") ? Number(text) : text);
  if (given.has("target") || given.has("crop")) {
    wanted = { target: number(given.get("target")), versus: number(given.get("versus")) ?? NONE, crop: given.get("crop") };
  }

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

  function address() {
    const query = new URLSearchParams(window.location.search);
    const values = { ...asked, ...Object.fromEntries(VIEW.map((name) => [name, timmscope.state?.[name]])) };
    for (const [name, usual] of Object.entries(FIELDS)) {
      const value = values[name];
      const text = typeof value === "object" && value !== null ? JSON.stringify(value) : String(value ?? "");
      const plain = typeof usual === "object" && usual !== null ? JSON.stringify(usual) : String(usual ?? "");
      if (text === plain || text === "") query.delete(name);
      else query.set(name, text);
    }
    const example = exampleOf(asked.picture);
    if (example) query.set("picture", example);
    else query.delete("picture");
    const shared = example ? null : sharedName(asked.picture);
    if (shared) query.set("shared", shared);
    else query.delete("shared");
    return query;
  }

  // Whether these fields are as in the question whose answer the page shows.
  function isAnswered(fields) {
    const text = (value) => JSON.stringify(value?.path ?? value ?? null);
    return Object.entries(fields).every(([name, value]) => name in asked && text(asked[name]) === text(value));
  }

  timmscope.question = {
    // What is to be chosen with the next prediction.
    want: ({ target, versus, crop }) => { wanted = { target, versus: versus ?? NONE, crop: crop ?? null }; },

    // The classes for a part of the picture that is new to the page. A busy browser tells of a change
    // late, when its answer is there already: then the classes stay.
    classes(target, versus, crop) {
      if (wanted) return [wanted.target, wanted.versus];
      return isAnswered({ crop }) ? [target, versus] : [null, NONE];
    },

    // The classes and the part for a picture or a model that is new to the page, likewise.
    afresh(target, versus, crop, picture, model, weights, activation) {
      if (wanted) return [wanted.target, wanted.versus, wanted.crop ?? null];
      return isAnswered({ picture, model, weights, activation }) ? [target, versus, crop] : [null, NONE, null];
    },

    // An answer has come: its question goes into the address.
    answered(values) {
      wanted = null;
      asked = values;
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
      timmscope.question.tell();
      await navigator.clipboard?.writeText(window.location.href).catch(() => {});
      return window.location.href;
    },

    // The view has changed, or the question.
    tell() {
      if (!asked.model) return;
      const query = address().toString();
      window.history.replaceState(window.history.state, "", query ? `?${query}` : window.location.pathname);
    },
  };
})();
