//! An answer on an admin or control socket, as bytes.

/// Status, type and body; every answer ends its connection.
#[derive(Debug)]
pub struct Answer {
    status: u16,
    content_type: &'static str,
    allow: Option<&'static str>,
    body: String,
}

impl Answer {
    pub fn new(status: u16, content_type: &'static str, body: String) -> Self {
        Self { status, content_type, allow: None, body }
    }

    pub fn text(status: u16, body: impl Into<String>) -> Self {
        Self::new(status, "text/plain; charset=utf-8", body.into())
    }

    /// With the methods that are allowed.
    pub fn with_allow(mut self, methods: &'static str) -> Self {
        self.allow = Some(methods);
        self
    }

    /// Head and, unless the request was HEAD, body.
    pub fn to_bytes(&self, head_only: bool) -> Vec<u8> {
        let reason =
            ::http::StatusCode::from_u16(self.status).ok().and_then(|s| s.canonical_reason()).unwrap_or_default();
        let allow = self.allow.map(|methods| format!("Allow: {methods}\r\n")).unwrap_or_default();
        let head = format!(
            "HTTP/1.1 {} {reason}\r\nContent-Type: {}\r\nContent-Length: {}\r\nCache-Control: no-store\r\n\
             X-Content-Type-Options: nosniff\r\n{allow}Connection: close\r\n\r\n",
            self.status,
            self.content_type,
            self.body.len(),
        );
        let mut bytes = head.into_bytes();
        if !head_only {
            bytes.extend_from_slice(self.body.as_bytes());
        }
        bytes
    }
}
