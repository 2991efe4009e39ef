# Debian's defaults, but for a field that the others add. It logs to memory alone.
vcl 4.1;
backend app { .host = "127.0.0.1"; .port = "@app@"; }
sub vcl_recv {
    if (req.url !~ "^/cached/") { return (pass); }
}
sub vcl_backend_response {
    set beresp.ttl = 1h;
}
sub vcl_deliver {
    set resp.http.X-Request-ID = req.xid;
}
