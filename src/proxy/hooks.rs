//! The engine's hooks: each is a line or two that names a step.
//!
//! The engine makes one attempt at a time, over a connection that is there already. Endpoints, further attempts, our own answers and
//! the log line are the driver's (`mod.rs`).

use std::sync::Arc;

use async_trait::async_trait;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_error::{Error, ErrorType, Result};
use pingora_http::ResponseHeader;
use pingora_proxy::{FailToProxy, ProxyHttp, ProxyWarnLogContext, Session};

use crate::proxy::context::Active;
use crate::proxy::exchange::{Flight, entering};
use crate::proxy::{attempt, response};

/// The gateway, as Pingora sees it. It holds nothing: a request brings its configuration with it.
#[derive(Debug, Default)]
pub struct Hooks;

/// A request in the engine.
#[derive(Debug)]
pub struct Context(Option<Arc<Flight>>);

impl Context {
    /// Does something with the request, unless its driver has taken it back.
    fn with<T>(&self, step: impl FnOnce(&mut Active) -> T) -> Option<T> {
        self.0.as_ref()?.active.lock().as_deref_mut().map(step)
    }
}

#[async_trait]
impl ProxyHttp for Hooks {
    type CTX = Context;

    fn new_ctx(&self) -> Context {
        Context(entering())
    }

    async fn upstream_peer(&self, _session: &mut Session, ctx: &mut Context) -> Result<Box<HttpPeer>> {
        let lost = || Error::explain(ErrorType::InternalError, "request without a connection");
        ctx.with(attempt::peer).flatten().ok_or_else(lost)
    }

    async fn upstream_response_filter(
        &self,
        _session: &mut Session,
        response: &mut ResponseHeader,
        ctx: &mut Context,
    ) -> Result<()> {
        ctx.with(|active| response::judge(response, active)).unwrap_or(Ok(()))
    }

    async fn response_filter(
        &self,
        _session: &mut Session,
        response: &mut ResponseHeader,
        ctx: &mut Context,
    ) -> Result<()> {
        ctx.with(|active| response::edit(response, active)).unwrap_or(Ok(()))
    }

    fn fail_to_connect(
        &self,
        _session: &mut Session,
        _peer: &HttpPeer,
        _ctx: &mut Context,
        mut error: Box<Error>,
    ) -> Box<Error> {
        error.set_retry(false);
        error
    }

    fn error_while_proxy(
        &self,
        _peer: &HttpPeer,
        session: &mut Session,
        mut error: Box<Error>,
        ctx: &mut Context,
        _client_reused: bool,
    ) -> Box<Error> {
        let begun = session.response_written().is_some();
        ctx.with(|active| attempt::failed(active, &error, begun));
        error.set_retry(false);
        error
    }

    async fn fail_to_proxy(&self, _session: &mut Session, error: &Error, ctx: &mut Context) -> FailToProxy {
        ctx.with(|active| attempt::explain(active, error));
        // The driver answers.
        FailToProxy { error_code: 0, can_reuse_downstream: false }
    }

    // Our own lines say it, once and with the request's id.
    fn suppress_error_log(&self, _session: &Session, _ctx: &Context, _error: &Error) -> bool {
        true
    }

    fn suppress_proxy_warn_log(
        &self,
        _session: &Session,
        _ctx: &Context,
        _error: &Error,
        _context: ProxyWarnLogContext,
    ) -> bool {
        true
    }
}
