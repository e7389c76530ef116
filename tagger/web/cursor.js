// The cursors of the waveform and the taggram follow playback; a click jumps to that time.
const sound = () => element.querySelector("audio");
const follow = () => {
  const audio = sound();
  const share = audio && audio.duration ? audio.currentTime / audio.duration : 0;
  for (const cursor of document.querySelectorAll(".song .cursor"))
    cursor.style.left = `${100 * share}%`;
  if (element.isConnected) requestAnimationFrame(follow);
};
document.addEventListener("click", (event) => {
  const time = event.target.closest(".song .time"), audio = sound();
  if (!time || !audio || !audio.duration) return;
  const box = time.getBoundingClientRect();
  audio.currentTime = ((event.clientX - box.left) / box.width) * audio.duration;
});
follow();
