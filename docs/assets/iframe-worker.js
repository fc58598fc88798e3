// Search from the disk: browsers start no Worker from a file, so its script runs in a hidden frame.
// By this name the offline plugin knows that it needn't fetch such a script from elsewhere.
if (location.protocol === "file:") {
  window.Worker = window.IFrameWorker = class extends EventTarget {
    constructor(url) {
      super()
      const frame = document.createElement("iframe")
      frame.hidden = true
      frame.receive = data => this.dispatchEvent(new MessageEvent("message", { data }))
      frame.srcdoc = `<script>self.postMessage = data => frameElement.receive(data)</script><script src="${url}"></script>`
      const loaded = new Promise(resolve => { frame.onload = resolve })
      this.postMessage = data =>
        loaded.then(() => frame.contentWindow.dispatchEvent(new MessageEvent("message", { data })))
      document.documentElement.append(frame) // last: it loads what srcdoc says, and nothing before that
    }
  }
}
