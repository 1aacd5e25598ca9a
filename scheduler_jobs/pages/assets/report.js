"use strict";
// The report: all images are in the page, in blocks of data; small copies are read block by block.

class PageSource {
  constructor() {
    const blocks = [...document.querySelectorAll("script.images")].map((block) => JSON.parse(block.textContent));
    this.block = blocks.length ? blocks[0].length : 1;
    this.images = blocks.flat();
    this.images.forEach((image, place) => {
      image.place = place;
      image.prompt ??= "";
    });
    this.copies = [...document.querySelectorAll("script.thumbnails")];
    this.read = new Map();
  }

  async start(filter) {
    const images = this.images.filter((image) => isTaken(image, filter));
    return { images: filter.order ? ordered(images, filter.order) : images, done: true };
  }

  thumbnail(image) {
    const number = Math.floor(image.place / this.block);
    if (!this.read.has(number)) this.read.set(number, JSON.parse(this.copies[number].textContent));
    const copy = this.read.get(number)[image.place % this.block];
    return copy ? `data:image/webp;base64,${copy}` : this.picture(image);
  }

  picture(image) {
    return image.file && !image.file.startsWith("s3:") ? image.file : null;
  }
}

function ordered(images, { score, ascending }) {
  const sign = ascending ? 1 : -1;
  const scored = images.filter((image) => typeof image.scores?.[score] === "number");
  return scored.sort((one, other) => sign * (one.scores[score] - other.scores[score]));
}

const summary = JSON.parse(document.querySelector("script.summary").textContent);
const source = new PageSource();
drawTop(summary);
const explorer = new Explorer(source, summary);
const shown = source.images.length;
if (shown < summary.job.requested) {
  byId("toolbar").after(
    element("p", {
      class: "quiet plain",
      text: `These are the first ${wholeNumber.format(shown)} of ${count(summary.job.requested, "image")}; imagemill report --max-images N shows more.`,
    }),
  );
}
explorer.refresh().then(() => explorer.openAddressed());
