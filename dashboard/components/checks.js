// A choice of several options in groups, each group under the question that it answers.
"use strict";

(() => {
  const timmscope = (window.timmscope ??= {});
  if (timmscope.checks) return;

  const made = (tag, className, textContent = "") => Object.assign(document.createElement(tag), { className, textContent });

  function option({ key, label, about }) {
    const line = made("label", "ts-check");
    const words = made("span", "ts-check-words");
    const box = Object.assign(document.createElement("input"), { type: "checkbox", value: key });
    words.append(made("span", "ts-check-label", label), made("span", "ts-check-about", about));
    line.append(box, words);
    return line;
  }

  function group({ label, question, options }) {
    const set = made("fieldset", "ts-checks-group");
    const title = made("legend", "ts-checks-title", question);
    set.append(title, made("p", "ts-checks-name", label), ...options.map(option));
    return set;
  }

  timmscope.checks = (root, props, trigger, watch) => {
    root.replaceChildren(...props.groups.map(group));
    const boxes = [...root.querySelectorAll("input")];
    const show = () => boxes.forEach((box) => { box.checked = (props.value ?? []).includes(box.value); });
    root.addEventListener("change", () => {
      props.value = boxes.filter((box) => box.checked).map((box) => box.value);
      trigger("input");
    });
    show();
    watch("value", show);
  };
})();
