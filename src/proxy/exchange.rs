//! One exchange with the app: the request goes out, the answer comes in, and neither waits for the other.
//!
//! It is over when the answer is, or when it cannot come. An app whose time is up is left to itself, together with its slot, where
//! the slot must stay taken for as long as a worker is busy; the client is answered meanwhile.

use std::time::Duration;

use bytes::Bytes;
use http::Method;
use pingora_error::Error;
use tokio::time::Instant;

use crate::edge::session::Session;
use crate::observe::metrics::EndpointOverdue;
use crate::proxy::context::Active;
use crate::proxy::{attempt, response};
use crate::upstream::endpoint::Lease;
use crate::upstream::response_reader::{Expected, Piece};
use crate::upstream::stream::{Broken, Came, Upgraded, UpstreamStream};

/// What is read at once of an answer that nobody is given.
const DISCARDED_READ: usize = 64 * 1024;

/// Why there is no answer of the app, or no whole one.
#[derive(Debug)]
pub enum Failed {
    /// It is the connection, or what came over it.
    Upstream(Broken),
    /// The client left, its body is bad, the app's time is up, or its answer may not be passed on: the exchange's outcome and the
    /// request's state say which.
    Here(Box<Error>),
}

impl From<Box<Error>> for Failed {
    fn from(error: Box<Error>) -> Self {
        Self::Here(error)
    }
}

impl From<Broken> for Failed {
    fn from(broken: Broken) -> Self {
        Self::Upstream(broken)
    }
}

/// Exchanges the request for an answer, over the connection that `active` holds, which is what is returned if both sides agree to
/// speak another protocol. What else became of it is in the request's state.
pub(super) async fn run(session: &mut Session, active: &mut Active) -> Option<Upgraded> {
    let mut stream = active.connection.take()?;
    let ended = match exchange(session, active, &mut stream).await {
        Ok(End::Switched) => return stream.into_upgraded(),
        Ok(End::Answered(last)) => {
            // What the app has got of a request that is not whole must not be given an end.
            stream.give_up();
            // Whoever sees the end of the answer may come again at once, and finds a worker that is free.
            drop(stream);
            active.release();
            conclude(session, last).await
        }
        Err(_) if session.app_is_late() && active.exchange.control.outlives_timeout() => {
            if let Some(slot) = attempt::outlived(active) {
                let patience = active.exchange.control.upstream_patience(true);
                tokio::spawn(see_through(stream, slot, patience));
            }
            return None;
        }
        Err(failed) => Err(failed),
    };
    if let Err(failed) = ended {
        attempt::failed(active, &failed, session.has_begun());
        attempt::explain(active, &failed);
    }
    None
}

/// What a turn of the exchange has brought.
enum Turn {
    /// From the app.
    Came(Result<Came, Broken>),
    /// For the app; none at the end.
    Body(Result<Option<Bytes>, Box<Error>>),
    /// It ends from outside.
    BrokenOff(Box<Error>),
}

/// How far the answer has come.
enum Passed {
    Nothing,
    More,
    All(End),
}

/// What an exchange ends with.
enum End {
    /// The answer, of which these bytes are still to be passed on.
    Answered(Bytes),
    /// Both sides have agreed to speak another protocol.
    Switched,
}

/// Gives the app the request, and passes on its answer, up to the end of it.
async fn exchange(session: &mut Session, active: &mut Active, stream: &mut UpstreamStream) -> Result<End, Failed> {
    let expected = Expected { head_only: active.exchange.method == Method::HEAD, upgrade: active.exchange.upgrade };
    let has_body = !session.has_no_body();
    stream.begin(session.request(), has_body, expected);
    let mut gives = has_body;
    if gives && session.stored().is_some() {
        // What lies ready goes out with the head.
        gives = give(stream, session.body_for_app().await?);
    }
    stream.send().await;
    let mut stalled = None;
    loop {
        let is_behind = stream.is_behind();
        if !is_behind || !gives {
            stalled = None;
        } else if stalled.is_none() {
            stalled = Some(Instant::now());
        }
        match turn(session, stream, gives && !is_behind, stalled).await {
            Turn::Came(came) => match came? {
                Came::Taken => stalled = None,
                Came::Arrived => match pass_on(session, active, stream).await? {
                    // Who says something has not stalled. Interim answers, or half a head, say nothing yet.
                    Passed::More => stalled = None,
                    Passed::Nothing => {}
                    Passed::All(end) => return Ok(end),
                },
            },
            Turn::Body(piece) => {
                gives = give(stream, piece?);
                stream.send().await;
            }
            Turn::BrokenOff(error) => {
                stream.give_up();
                return Err(error.into());
            }
        }
    }
}

/// Waits for the first of all that may come. The app's answer is looked for first.
async fn turn(session: &mut Session, stream: &mut UpstreamStream, gives: bool, stalled: Option<Instant>) -> Turn {
    let at_once = session.read_at_once();
    if gives {
        tokio::select! {
            biased;
            came = stream.came(at_once) => Turn::Came(came),
            piece = session.body_for_app() => Turn::Body(piece),
        }
    } else {
        tokio::select! {
            biased;
            came = stream.came(at_once) => Turn::Came(came),
            error = session.broken_off(stalled) => Turn::BrokenOff(error),
        }
    }
}

/// Gives the app a piece of the body; whether there is more.
fn give(stream: &mut UpstreamStream, piece: Option<Bytes>) -> bool {
    let Some(piece) = piece else {
        stream.give_end();
        return false;
    };
    stream.give(piece);
    true
}

/// Passes on what has come of the answer, all of it in one write where that is possible.
async fn pass_on(session: &mut Session, active: &mut Active, stream: &mut UpstreamStream) -> Result<Passed, Failed> {
    let mut passed = Passed::Nothing;
    loop {
        let piece = match stream.piece() {
            Ok(piece) => piece,
            Err(broken) => {
                // What came before it is the client's, so that it sees an answer that broke, and not nothing.
                session.flush(Bytes::new()).await?;
                return Err(broken.into());
            }
        };
        match piece {
            Some(Piece::Interim) => active.attempt.begun = true,
            Some(Piece::Head(mut head)) => {
                response::judge(&mut head, active)?;
                response::edit(&mut head, active);
                session.take_header(head)?;
                passed = Passed::More;
            }
            Some(Piece::Body(data)) if stream.is_done() => return Ok(Passed::All(End::Answered(data))),
            Some(Piece::Body(data)) => {
                while_sending(stream, session.take_body(data)).await?;
                passed = Passed::More;
            }
            Some(Piece::End) => return Ok(Passed::All(End::Answered(Bytes::new()))),
            Some(Piece::Switched(mut head)) => {
                response::judge(&mut head, active)?;
                response::edit(&mut head, active);
                session.take_switch(head);
                return Ok(Passed::All(End::Switched));
            }
            None => {
                while_sending(stream, session.flush(Bytes::new())).await?;
                return Ok(passed);
            }
        }
    }
}

/// Passes on the end of an answer.
async fn conclude(session: &mut Session, last: Bytes) -> Result<(), Failed> {
    session.take_body(last).await?;
    session.take_end()?;
    session.flush(Bytes::new()).await?;
    Ok(())
}

/// Awaits `step`, which may wait for the client; the app gets what it was given of the request meanwhile.
async fn while_sending<T>(stream: &mut UpstreamStream, step: impl Future<Output = T>) -> T {
    tokio::select! {
        biased;
        done = step => done,
        () = stream.go_on_sending() => unreachable!("it never ends"),
    }
}

/// Reads an answer that nobody waits for any more to its end: until then the app's worker is busy, however long it says nothing. One
/// that may have no end, or says more when its `patience` is over, is closed on, which the worker sees when it writes next.
async fn see_through(mut stream: UpstreamStream, slot: (Lease, EndpointOverdue), patience: Duration) {
    let mut heard = None;
    loop {
        match stream.piece() {
            Ok(Some(Piece::End | Piece::Switched(_))) | Err(_) => break,
            Ok(Some(Piece::Head(head))) if response::may_have_no_end(&head) => break,
            Ok(Some(Piece::Body(_))) if heard.get_or_insert_with(Instant::now).elapsed() > patience => break,
            Ok(Some(_)) => {}
            Ok(None) => {
                if stream.came(DISCARDED_READ).await.is_err() {
                    break;
                }
            }
        }
    }
    drop((stream, slot));
}
