"""Detection over HTTP, and a page to try it on.

settings    what can be set, each limit with its unit
refusals    every way a request can be turned down: code, status, meaning
photos      uploaded bytes → image, with the limits of a service
uploads     request → photos, counted while they arrive
fetch       the same from an address, never an internal one
batching    photos of many requests go through the network together
metrics     what Prometheus reads
schema      the answers, as OpenAPI tells them
app         the routes
pages       the page and the documentation, without anything from another host
server      sockets, workers, signals
"""
