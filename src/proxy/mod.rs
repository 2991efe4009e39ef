//! What happens to a request, as the hooks Pingora calls in order. Each hook is a line or two that names a step; the steps
//! live in the files below.
//!
//! `accept` judges the request and finds its route, `forward` makes it what the app is to see, `attempt` chooses an endpoint
//! and decides about another try, `response` judges the answer, `respond` writes every answer of our own, `finish` logs and
//! counts. What one step leaves for the next is in `context`.

mod accept;
mod attempt;
mod context;
mod finish;
mod forward;
pub mod rejection;
mod respond;
mod response;

use async_trait::async_trait;
use pingora_core::protocols::Digest;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_error::{Error, Result};
use pingora_http::ResponseHeader;
use pingora_proxy::{FailToProxy, ProxyHttp, ProxyWarnLogContext, Session};

use crate::proxy::accept::Next;
use crate::proxy::context::Context;

/// The gateway, as Pingora sees it. It holds nothing: a request brings its configuration with it.
#[derive(Debug, Default)]
pub struct Gateway;

#[async_trait]
impl ProxyHttp for Gateway {
    type CTX = Context;

    fn new_ctx(&self) -> Context {
        Context::default()
    }

    async fn early_request_filter(&self, session: &mut Session, ctx: &mut Context) -> Result<()> {
        ctx.begin(session.req_header_mut())
    }

    async fn request_filter(&self, session: &mut Session, ctx: &mut Context) -> Result<bool> {
        let active = ctx.active()?;
        match accept::accept(session.req_header_mut(), active) {
            Ok(Next::Proxy(upstream)) => {
                active.upstream = Some(upstream);
                Ok(false)
            }
            Ok(Next::Answer(answer)) => respond::answer(session, active, *answer).await.map(|()| true),
            Err(rejection) => respond::reject(session, active, rejection).await.map(|()| true),
        }
    }

    async fn upstream_peer(&self, _session: &mut Session, ctx: &mut Context) -> Result<Box<HttpPeer>> {
        attempt::choose(ctx.active()?)
    }

    fn fail_to_connect(
        &self,
        _session: &mut Session,
        _peer: &HttpPeer,
        ctx: &mut Context,
        error: Box<Error>,
    ) -> Box<Error> {
        attempt::after_failed_connect(ctx, error)
    }

    async fn connected_to_upstream(
        &self,
        _session: &mut Session,
        reused: bool,
        _peer: &HttpPeer,
        _fd: std::os::fd::RawFd,
        _digest: Option<&Digest>,
        ctx: &mut Context,
    ) -> Result<()> {
        attempt::connected(ctx.active()?, reused);
        Ok(())
    }

    async fn upstream_response_filter(
        &self,
        _session: &mut Session,
        response: &mut ResponseHeader,
        ctx: &mut Context,
    ) -> Result<()> {
        response::judge(response, ctx.active()?)
    }

    async fn response_filter(
        &self,
        _session: &mut Session,
        response: &mut ResponseHeader,
        ctx: &mut Context,
    ) -> Result<()> {
        response::edit(response, ctx.active()?)
    }

    fn error_while_proxy(
        &self,
        _peer: &HttpPeer,
        session: &mut Session,
        error: Box<Error>,
        ctx: &mut Context,
        _client_reused: bool,
    ) -> Box<Error> {
        attempt::after_failed_exchange(session, ctx, error)
    }

    async fn fail_to_proxy(&self, session: &mut Session, error: &Error, ctx: &mut Context) -> FailToProxy {
        respond::fail(session, ctx, error).await
    }

    async fn logging(&self, session: &mut Session, _error: Option<&Error>, ctx: &mut Context) {
        if let Ok(active) = ctx.active() {
            finish::finish(active, Some(session.req_header()));
        }
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
