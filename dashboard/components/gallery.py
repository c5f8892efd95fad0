"""Gallery: a grid of maps that open large and can be pinned."""

from __future__ import annotations

from dashboard.components.panels import Panels

TEMPLATE = """<div class="ts-gallery">
  <section class="ts-pinned" aria-label="Pinned maps" hidden>
    <h4>Pinned</h4>
    <div class="ts-pins"><div class="ts-grid"></div></div>
  </section>
  <div class="ts-all"><div class="ts-grid"></div></div>
  <dialog class="ts-large">
    <div class="ts-large-bar">
      <button type="button" class="ts-large-before">Previous</button>
      <button type="button" class="ts-large-after">Next</button>
      <button type="button" class="ts-large-pin">Pin</button>
      <button type="button" class="ts-large-close" autofocus>Close</button>
    </div>
    <div class="ts-large-map"><div class="ts-grid"></div></div>
  </dialog>
</div>"""


class Gallery(Panels):
    """Panels with maps over a picture, which open large on click and can be pinned.

    A pinned map stays when others come. The caption of a panel should say where its map comes
    from: it is shown where the map is large or pinned.
    """

    template = TEMPLATE
    styles = ("panels.css", "gallery.css")
    scripts = ("gallery.js",)
    mount = (
        "window.timmscope.gallery(element.querySelector('.ts-gallery'), props, trigger, watch);"
        " // 'select'"
    )
