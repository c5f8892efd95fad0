// Tells which results on the page still answer what the page asks, without asking the server.
//
// Each area of results is asked with a stamp, which the server sends back with the answer. So the
// values that were asked for are known here, and are compared with those on the page whenever one
// changes. A result that answers something else is greyed and cannot be used.
"use strict";

(() => {
  const timmscope = (window.timmscope ??= {});
  if (timmscope.answers) return;

  const KEPT = 40; // questions remembered for an area
  const LONG_AGO = 1; // a question of that time is cancelled by any cancellation
  const NEVER = -1; // nothing was asked for before that time
  const areas = new Map();
  let last = 0;

  const areaOf = (name) => {
    const fresh = { now: null, answer: null, cancelled: "", givenUp: false, stoppedAt: 0, resumed: null };
    if (!areas.has(name)) areas.set(name, { name, sent: new Map(), ...fresh });
    return areas.get(name);
  };

  // Later stamps are larger, even within a millisecond.
  const stamp = () => (last = Math.max(last + 1, Date.now()));

  // A file is known by its path; what else Gradio says of it may differ from event to event.
  const text = (value) => JSON.stringify(value?.path ?? value ?? null);
  // An empty field of numbers says 0: no limit to the samples.
  const meant = (name, value) => text(name === "stop_after" ? value || null : value);
  const snapshot = (names, values) => Object.fromEntries(names.map((name, i) => [name, meant(name, values[i])]));

  // Of all settings, those that matter to the answer.
  function settingsOf(json, keys) {
    const all = JSON.parse(json) ?? {};
    return JSON.stringify(keys ? keys.map((key) => all[key] ?? {}) : all);
  }

  function differs(name, asked, current, { same, settings }) {
    if (asked === current || same[name] === "any") return false;
    if (name === "settings") return settingsOf(asked, settings) !== settingsOf(current, settings);
    const alike = (same[name] ?? []).map(text);
    return !(alike.includes(asked) && alike.includes(current));
  }

  // What a value means to an answer.
  const meaning = (value, alike = []) => (alike === "any" ? null : alike.map(text).includes(value) ? text(alike.at(-1)) : value);

  // A map whose painting was stopped is none that anybody waited for.
  function isStale({ now, answer }) {
    if (answer?.dropped) return true;
    if (!answer?.asked || !answer.label || !now) return false;
    return Object.keys(now).some((name) => differs(name, answer.asked[name], now[name], answer));
  }

  function ribbon(area, stale) {
    if (area.cancelled && (stale || !area.answer)) return `Cancelled. Press ${area.cancelled}`;
    if (stale) return `For: ${area.answer.label}`;
    const { partial = "", painting = false } = area.answer ?? {};
    return partial && !painting ? `Stopped at ${partial}` : partial;
  }

  // The file of the focus may come later than this one.
  const keep = (part, change) => (timmscope.focus ? timmscope.focus.keep(part, change) : change());

  function show(area) {
    document.dispatchEvent(new CustomEvent("timmscope:answers", { detail: area.name }));
    const element = document.getElementById(`${area.name}-answer`);
    if (!element) return;
    const stale = isStale(area);
    const painting = !stale && Boolean(area.answer?.painting);
    const change = () => {
      element.classList.toggle("ts-stale", stale);
      element.classList.toggle("ts-painting", painting && !area.enough);
      element.dataset.ribbon = ribbon(area, stale);
      for (const child of element.children) child.inert = stale;
      for (const part of element.querySelectorAll(".ts-when-done")) part.inert = painting;
    };
    keep(element, change);
  }

  // The layer of an area's result: the one taken where none was chosen.
  function layerOf(name) {
    const { same, values } = areaOf(name).answer ?? {};
    return (same?.layer?.at(-1) ?? values?.layer) || null;
  }

  // No work for an area goes on that was asked for before now: nor is a map that it has painted so far finished.
  function stopped(area) {
    area.stoppedAt = stamp();
    if (area.answer?.painting) area.answer.dropped = true;
    show(area);
    return area.stoppedAt;
  }

  // How many samples the map is to have: as many as the earlier answer that comes back, if this asks for it; else all.
  function samplesOf({ resumed }, now) {
    if (!resumed) return null;
    const other = (name) => name !== "stop_after" && name in now && differs(name, text(resumed.values[name]), now[name], resumed);
    return Object.keys(resumed.values).some(other) ? null : (resumed.values.stop_after ?? null);
  }

  // The question is remembered; the values become those that are sent, with a stamp as the last of them.
  function remember(area, names, values) {
    const at = stamp();
    const given = [...values];
    if (names.includes("stop_after")) given[names.indexOf("stop_after")] = samplesOf(area, snapshot(names, values));
    area.now = snapshot(names, given);
    area.sent.set(at, { texts: area.now, values: Object.fromEntries(names.map((key, i) => [key, given[i]])) });
    if (area.sent.size > KEPT) area.sent.delete(area.sent.keys().next().value);
    Object.assign(area, { cancelled: "", enough: false, givenUp: false });
    show(area);
    return [...given.slice(0, -1), at];
  }

  timmscope.answers = {
    stamp,

    // Before an area is asked.
    ask(name, names, ...values) {
      const area = areaOf(name);
      area.resumed = null;
      return remember(area, names, values);
    },

    // Before an area is asked as a consequence of a choice, which takes a moment. Whoever cancels in
    // that moment cancels this, too.
    follow(name, names, ...values) {
      const area = areaOf(name);
      return area.givenUp ? [...values.slice(0, -1), LONG_AGO] : remember(area, names, values);
    },

    // An earlier answer, of `askedOf`, comes back: if it is a map of some samples only, it is asked for as such, while
    // what follows asks for the same in all of its values.
    resume(name, earlier) {
      areaOf(name).resumed = earlier;
    },

    // A person has chosen something that stops all work, so what is cancelled is about the choice before. An earlier
    // answer that comes back chooses likewise.
    chosen() {
      for (const area of areas.values()) {
        Object.assign(area, { cancelled: "", givenUp: false });
        stopped(area);
      }
      return stamp();
    },

    // Likewise, for one area.
    replaced(name) {
      const area = areaOf(name);
      Object.assign(area, { cancelled: "", givenUp: false, resumed: null });
      return stopped(area);
    },

    // A person has changed a setting: that stops work which depends on it.
    setting(name, settings) {
      const { texts, values } = [...areaOf(name).sent.values()].at(-1) ?? {};
      const keys = [String(values?.method ?? "").split(/[(@]/)[0]];
      const same = !values || settingsOf(texts.settings, keys) === settingsOf(text(settings), keys);
      return [settings, same ? NEVER : timmscope.answers.replaced(name)];
    },

    // Fields have these values now: those of one area, or, with null for its name, of all that are asked by them.
    changed(name, names, ...values) {
      const told = Object.entries(snapshot(names, values));
      for (const area of name === null ? areas.values() : [areaOf(name)]) {
        for (const [field, value] of told) if (area.now && field in area.now) area.now = { ...area.now, [field]: value };
        show(area);
      }
    },

    // A result has arrived; see `Answer` in panels.py.
    arrived({ area: name, asked_at: at, ...answer }) {
      const area = areaOf(name);
      const sent = area.sent.get(at);
      const dropped = at === LONG_AGO || (answer.painting && at < area.stoppedAt);
      area.answer = { ...answer, asked: sent?.texts, values: sent?.values, dropped };
      if (!dropped) area.cancelled = "";
      show(area);
    },

    // Whether there is a result in an area, and it answers what the page asks.
    isFresh(name) {
      const area = areaOf(name);
      return Boolean(area.answer?.asked) && !isStale(area);
    },

    // A text for some fields of what an area's result answers, which those that mean the same share;
    // null if the page asks for something else in one of them.
    agreed(name, fields) {
      const { answer, now } = areaOf(name);
      if (!answer?.asked || !now) return null;
      if (fields.some((field) => differs(field, answer.asked[field], now[field], answer))) return null;
      return JSON.stringify(fields.map((field) => meaning(answer.asked[field], answer.same[field])));
    },

    // Whether the result of an area is this explanation, and at this layer if one is told.
    isAbout(name, about, layer) {
      return Boolean(about) && areaOf(name).answer?.about === about && (layer === undefined || (layer || null) === layerOf(name));
    },

    layerOf,

    // What the result of an area is called, the values that it was asked with, which of them mean the same, its
    // layer, how far it was taken if that is not all the way, and a text that two results share if they answer the
    // same question; null if unknown, or if it is still worked on.
    askedOf(name) {
      const { label, values: sent, painting, partial, same = {}, settings } = areaOf(name).answer ?? {};
      if (!label || !sent || painting) return null;
      const layer = layerOf(name);
      const values = { ...sent, ...(same.stop_after && { stop_after: same.stop_after.at(-1) }) };
      // The label tells the classes, and a file is known by its path.
      const told = { ...values, target: null, versus: null, picture: text(values.picture), layer };
      return { label, values, same, settings, layer, partial, key: JSON.stringify([label, told]) };
    },

    // A result of other values has been put in place of the one that was there.
    moved(name, values) {
      const area = areaOf(name);
      if (!area.answer?.asked) return;
      const other = Object.fromEntries(Object.entries(values).map(([key, value]) => [key, text(value)]));
      const { asked, same, values: before } = area.answer;
      area.answer = { ...area.answer, asked: { ...asked, ...other }, values: { ...before, ...values }, same: { ...same, layer: [] } };
      area.now = { ...area.now, ...other };
      show(area);
    },

    // What there is so far is good enough: nobody needs to say so twice.
    enough(name) {
      const area = areaOf(name);
      area.enough = true;
      show(area);
      return stamp();
    },

    // A person has cancelled; the button that starts again is called so.
    cancelled(name, button) {
      const area = areaOf(name);
      Object.assign(area, { cancelled: button, givenUp: true });
      return stopped(area);
    },
  };
})();
