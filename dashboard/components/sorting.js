// Orders the named cards of a grid: as they came, by score (highest first) or by cost (lowest first).
//
// Cards without a name keep their place. Scores may come later than the cards and from another grid, such as a
// recommendation's: a panel's `scores` hold those of other cards, by name (see core/views/panels.py).
"use strict";

(() => {
  const timmscope = (window.timmscope ??= {});
  if (timmscope.sorting) return;

  const SIGNS = { score: -1, cost: 1 };
  const orders = new Map(); // by the id of a component, how it is sorted

  const cardsIn = (element) => [...element.querySelectorAll(".ts-card")].map((figure) => figure.card);

  const place = (card) => card.root.cards.indexOf(card);

  const isStale = (element) => Boolean(element.closest(".ts-stale"));

  // The scores that cards were given elsewhere on the page, by results that still hold.
  function givenScores() {
    const sources = [...document.querySelectorAll(".ts-panels")].filter((element) => !isStale(element));
    return Object.assign({}, ...sources.flatMap(cardsIn).map(({ panel }) => panel.scores));
  }

  // Positions of cards in order; those without a number come last, and equal ones as they came.
  function ordered(ranks, by) {
    const key = (i) => (ranks[i]?.[by] === undefined ? Infinity : SIGNS[by] * ranks[i][by]);
    const at = ranks.map((_, i) => i);
    return by in SIGNS ? at.sort((one, other) => (key(one) === key(other) ? one - other : key(one) - key(other))) : at;
  }

  // A score that came later stands below the caption.
  function tell(card, score) {
    card.score ??= Object.assign(document.createElement("div"), { className: "ts-score" });
    card.score.textContent = score === undefined ? "" : `Symmetric relevance gain ${score.toFixed(2)}`;
    card.caption.after(card.score);
  }

  function sort(element) {
    const grid = element.querySelector(".ts-grid");
    const cards = [...(grid?.children ?? [])].map((figure) => figure.card);
    cards.sort((one, other) => place(one) - place(other));
    const scores = givenScores();
    const named = cards.filter(({ panel }) => panel.name);
    const ranks = named.map(({ panel }) => ({ score: scores[panel.name], ...panel.ranks }));
    const sorted = ordered(ranks, orders.get(element.id)).map((i) => named[i]);
    for (const card of cards) tell(card, card.panel.name ? scores[card.panel.name] : undefined);
    const wanted = cards.map((card) => (card.panel.name ? sorted.shift() : card).figure);
    if (wanted.some((figure, i) => figure !== grid.children[i])) grid.append(...wanted);
  }

  // Cards have come, here or where their scores are told.
  (timmscope.fillers ??= new Set()).add((root) => {
    const scored = root.cards.some(({ panel }) => Object.keys(panel.scores).length);
    for (const element of document.querySelectorAll(".ts-panels")) {
      if (element.contains(root.grid) || scored) sort(element);
    }
  });

  timmscope.sorting = {
    ordered,

    // A person has chosen an order for the cards of a component.
    by(id, order) {
      orders.set(id, order);
      const element = document.getElementById(id);
      if (element) sort(element);
    },
  };
})();
