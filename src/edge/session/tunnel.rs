//! A WebSocket in passing: bytes both ways, as they come, until both sides are done (RFC 6455).
//!
//! Of the frames only the borders are followed, and only those of the app: where the gateway itself is to close, its close frame
//! must stand between two of them.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use socket2::TcpKeepalive;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use crate::edge::alarm::Alarm;
use crate::edge::session::Session;
use crate::edge::session::wire::{Http1, Wire};
use crate::edge::transport::Transport;
use crate::upstream::socket::Socket;
use crate::upstream::stream::Upgraded;

/// What is read one way before the other way has its turn.
const IN_A_ROW: usize = 16;
/// How often it is asked whether a client is still there that is not read, because the app does not read.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// What is read of the app at once.
const READ: usize = 8 * 1024;
/// For the app to close, once the client has; and for all to end, once the app has closed or we have said that it is over.
const CLOSING_PATIENCE: Duration = Duration::from_secs(10);
const PARTING_PATIENCE: Duration = Duration::from_secs(1);
/// A close frame of a server with status 1001, going away (RFC 6455 sections 5.5.1 and 7.4.1).
const GOING_AWAY: [u8; 4] = [0x88, 2, 0x03, 0xE9];
/// A client that vanished is asked after so long without a byte, and given up when it does not answer.
const SILENCE: Duration = Duration::from_secs(60);
const PROBE_EVERY: Duration = Duration::from_secs(15);
const PROBES: u32 = 4;

/// Bytes on their way in one direction.
#[derive(Debug, Default)]
struct Way {
    pending: BytesMut,
    /// Nothing more is read.
    ended: bool,
    /// And the other side was told.
    told: bool,
}

impl Session {
    /// Passes bytes on until both sides are done, one is broken, or for `idle` nothing comes. When `closing` is ready, or the idle
    /// time is over, the client is told that we are going away.
    pub async fn tunnel(&mut self, upgraded: Upgraded, idle: Duration, closing: impl Future<Output = ()>) {
        let Self { wire: Wire::Http1(Http1 { connection, .. }), alarm, out, exchange, ended, response, .. } = self
        else {
            return;
        };
        exchange.outcome.mark_answered(response.as_ref().map_or(101, |response| response.status.as_u16()));
        *ended = true;
        look_after(&connection.transport);
        let head = out.len();
        let up = Way { pending: connection.buf.split(), ..Way::default() };
        let down = Way { pending: out.split(), ..Way::default() };
        let mut tunnel = Tunnel {
            moved: (up.pending.len(), 0),
            transport: &mut connection.transport,
            socket: upgraded.socket,
            up,
            down,
            frames: Frames::default(),
            parting: false,
        };
        tunnel.take_from_app(&upgraded.received);
        tunnel.run(alarm, idle, closing).await;
        let (received, sent) = tunnel.moved;
        exchange.outcome.count_body(received);
        exchange.outcome.count_sent(sent.saturating_sub(head));
    }
}

fn look_after(transport: &Transport) {
    let probes = TcpKeepalive::new().with_time(SILENCE).with_interval(PROBE_EVERY).with_retries(PROBES);
    transport.keep_alive(&probes, SILENCE + PROBE_EVERY * PROBES);
}

enum Turn {
    /// Something was passed on, or a side has ended.
    Moved,
    /// We are to go.
    Part,
    Over,
}

struct Tunnel<'a> {
    transport: &'a mut Transport,
    socket: Socket,
    /// From the client to the app.
    up: Way,
    down: Way,
    frames: Frames,
    /// The client is told that we go, as soon as a frame of the app has ended.
    parting: bool,
    /// Bytes from the client, and to it.
    moved: (usize, usize),
}

impl Tunnel<'_> {
    /// See [`Session::tunnel`].
    async fn run(&mut self, alarm: &mut Alarm, idle: Duration, closing: impl Future<Output = ()>) {
        let mut closing = pin!(closing);
        let mut deadline = Instant::now() + idle;
        loop {
            let before = self.progress();
            // While the app takes nothing the client is not read either, and so not seen to leave.
            let until = if self.up.pending.is_empty() { deadline } else { deadline.min(Instant::now() + LOOK_EVERY) };
            let turn = poll_fn(|cx| {
                let ended = self.poll(cx);
                if !self.parting && closing.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(Turn::Part);
                }
                match ended {
                    Poll::Ready(_) => Poll::Ready(Turn::Over),
                    Poll::Pending if self.progress() != before => Poll::Ready(Turn::Moved),
                    Poll::Pending => Poll::Pending,
                }
            });
            match alarm.before(until, turn).await {
                Some(Turn::Over) => break,
                None if self.transport.is_broken() => break,
                None if until < deadline => {}
                Some(Turn::Moved) if self.parting => {}
                Some(Turn::Moved) if self.up.ended || self.down.ended => {
                    // An app that has closed waits for a goodbye at most, and its slot for somebody else.
                    let patience = if self.down.ended { PARTING_PATIENCE } else { CLOSING_PATIENCE };
                    deadline = deadline.min(Instant::now() + patience);
                }
                Some(Turn::Moved) => deadline = Instant::now() + idle,
                // Out of patience, or once more nothing.
                None if self.parting || self.up.ended || self.down.ended => break,
                Some(Turn::Part) | None => {
                    self.part();
                    deadline = Instant::now() + PARTING_PATIENCE;
                }
            }
        }
    }

    /// What changes when something happens.
    fn progress(&self) -> ((usize, usize), bool, bool) {
        (self.moved, self.up.ended, self.down.ended)
    }

    /// Passes on what there is; ready when nothing more will come either way, or a side is broken.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let up = self.poll_up(cx);
        let down = self.poll_down(cx);
        match (up, down) {
            (Poll::Ready(Err(error)), _) | (_, Poll::Ready(Err(error))) => Poll::Ready(Err(error)),
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => Poll::Ready(Ok(())),
            _ => Poll::Pending,
        }
    }

    fn poll_up(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        for _ in 0..IN_A_ROW {
            if ready!(self.poll_to_app(cx)).is_err() {
                // The app takes no more. What it has said before is the client's all the same.
                self.up = Way { ended: true, told: true, ..Way::default() };
            }
            if self.up.ended {
                if !std::mem::replace(&mut self.up.told, true) {
                    self.socket.half_close();
                }
                return Poll::Ready(Ok(()));
            }
            // A WebSocket that waits holds no buffer.
            self.up.pending = BytesMut::new();
            match ready!(self.transport.poll_head(cx, &mut self.up.pending))? {
                0 => self.up.ended = true,
                received => self.moved.0 += received,
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn poll_to_app(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut socket = Pin::new(&mut self.socket);
        while !self.up.pending.is_empty() {
            let written = ready!(socket.as_mut().poll_write(cx, &self.up.pending))?;
            self.up.pending.advance(written);
        }
        socket.poll_flush(cx)
    }

    fn poll_down(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        for _ in 0..IN_A_ROW {
            while !self.down.pending.is_empty() {
                let written = ready!(self.transport.poll_write_both(cx, &self.down.pending, &[]))?;
                self.down.pending.advance(written);
                self.moved.1 += written;
            }
            ready!(self.transport.poll_send(cx))?;
            if self.down.ended {
                if !std::mem::replace(&mut self.down.told, true) {
                    let finish = pin!(self.transport.finish_writing());
                    ready!(finish.poll(cx));
                }
                return Poll::Ready(Ok(()));
            }
            self.down.pending = BytesMut::new();
            let mut piece = [0; READ];
            let mut read = ReadBuf::new(&mut piece);
            ready!(Pin::new(&mut self.socket).poll_read(cx, &mut read))?;
            if read.filled().is_empty() {
                self.down.ended = true;
            } else {
                self.take_from_app(read.filled());
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Takes in what the app has sent: all of it, or as far as the frame that is the last.
    fn take_from_app(&mut self, bytes: &[u8]) {
        let border = self.frames.follow(bytes, self.parting);
        self.down.pending.extend_from_slice(bytes.get(..border).unwrap_or_default());
        if self.parting {
            self.part();
        }
    }

    /// Tells the client that we go, between two frames, unless the app has said goodbye itself.
    fn part(&mut self) {
        self.parting = true;
        if self.frames.is_between() && !self.down.ended {
            if !self.frames.closed {
                self.down.pending.extend_from_slice(&GOING_AWAY);
            }
            self.down.ended = true;
        }
    }
}

/// Where the frames of one direction begin and end (RFC 6455 section 5.2).
#[derive(Debug, Default)]
struct Frames {
    /// Of the frame at hand, as far as its head has come.
    head: [u8; 14],
    filled: usize,
    /// Bytes of its payload that are to come.
    left: u64,
    /// A close frame was among them: none may follow.
    closed: bool,
}

impl Frames {
    fn is_between(&self) -> bool {
        self.filled == 0 && self.left == 0
    }

    /// Follows the bytes: to their end, or with `stop` to the first border between frames. How many that are.
    fn follow(&mut self, bytes: &[u8], stop: bool) -> usize {
        let mut used = 0;
        while let Some(byte) = bytes.get(used) {
            if self.left > 0 {
                let taken = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len() - used);
                self.left -= taken as u64;
                used += taken;
            } else {
                if let Some(place) = self.head.get_mut(self.filled) {
                    *place = *byte;
                }
                self.filled += 1;
                used += 1;
                self.read_head();
            }
            if stop && self.is_between() {
                break;
            }
        }
        used
    }

    /// Reads the head once it is whole.
    fn read_head(&mut self) {
        let [first, length, rest @ ..] = self.head;
        if self.filled < 2 {
            return;
        }
        let extended = match length & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let mask = if length & 0x80 == 0 { 0 } else { 4 };
        if self.filled < 2 + extended + mask {
            return;
        }
        self.left = match extended {
            0 => u64::from(length & 0x7f),
            _ => rest.iter().take(extended).fold(0, |sum, byte| sum << 8 | u64::from(*byte)),
        };
        self.filled = 0;
        self.closed |= first & 0x0f == 8;
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use socket2::SockRef;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream, UnixStream};

    use super::*;
    use crate::net::Plain;

    /// Runs a tunnel over socket pairs beside `story`, which has the client's and the app's ends. How long the tunnel lasted.
    async fn beside<T>(
        idle: Duration,
        closing: impl Future<Output = ()>,
        story: impl AsyncFnOnce(UnixStream, UnixStream) -> T,
    ) -> (Duration, T) {
        let (client, ours) = UnixStream::pair().unwrap();
        let (theirs, app) = UnixStream::pair().unwrap();
        let mut transport = Transport::Plain(Plain::Unix(ours));
        let mut tunnel = Tunnel {
            transport: &mut transport,
            socket: Socket::Plain(Plain::Unix(theirs)),
            up: Way::default(),
            down: Way::default(),
            frames: Frames::default(),
            parting: false,
            moved: (0, 0),
        };
        let started = Instant::now();
        let mut alarm = Alarm::default();
        let run = async {
            tunnel.run(&mut alarm, idle, closing).await;
            started.elapsed()
        };
        tokio::join!(run, story(client, app))
    }

    const HOUR: Duration = Duration::from_hours(1);

    #[tokio::test(start_paused = true)]
    async fn who_is_silent_for_the_idle_time_is_told_goodbye() {
        let (lasted, ()) = beside(HOUR, pending(), async |mut client, mut app| {
            let started = Instant::now();
            // Whatever moves, either way, begins the time anew.
            for (minutes, from_app) in [(59, false), (118, true)] {
                tokio::time::sleep_until(started + Duration::from_mins(minutes)).await;
                let (from, to) = if from_app { (&mut app, &mut client) } else { (&mut client, &mut app) };
                from.write_all(&frame(3, false)).await.unwrap();
                let mut came = [0; 5];
                to.read_exact(&mut came).await.unwrap();
                assert_eq!(came[..], frame(3, false));
            }
            let mut goodbye = Vec::new();
            client.read_to_end(&mut goodbye).await.unwrap();
            assert_eq!(goodbye, GOING_AWAY);
            let minutes = started.elapsed().as_secs() / 60;
            assert!((177..=179).contains(&minutes), "after {minutes} minutes");
        })
        .await;
        // Nor is an answer waited for.
        assert!((177 * 60..=179 * 60 + 2).contains(&lasted.as_secs()), "{lasted:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn who_said_goodbye_is_not_told_again() {
        let said = [0x88, 2, 3, 0xE8];
        let (_, came) = beside(HOUR, tokio::time::sleep(HOUR / 2), async |mut client, mut app| {
            app.write_all(&said).await.unwrap();
            let mut came = Vec::new();
            client.read_to_end(&mut came).await.unwrap();
            came
        })
        .await;
        assert_eq!(came, said);
    }

    #[tokio::test(start_paused = true)]
    async fn once_one_side_has_closed_the_other_does_not_hold_the_slot_for_long() {
        for (is_app, patience) in [(true, PARTING_PATIENCE), (false, CLOSING_PATIENCE)] {
            let (lasted, kept) = beside(HOUR, pending(), async |client, app| {
                let (closed, kept) = if is_app { (app, client) } else { (client, app) };
                drop(closed);
                kept
            })
            .await;
            assert_eq!(lasted.as_secs(), patience.as_secs());
            drop(kept);
        }
    }

    #[tokio::test]
    async fn the_kernel_gives_up_who_does_not_answer() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let transport = Transport::Plain(Plain::Tcp(listener.accept().await.unwrap().0));
        look_after(&transport);
        let Transport::Plain(Plain::Tcp(stream)) = transport else { panic!("plain TCP") };
        let socket = SockRef::from(&stream);
        assert!(socket.keepalive().unwrap());
        assert_eq!((socket.tcp_keepalive_time().unwrap(), socket.tcp_keepalive_retries().unwrap()), (SILENCE, PROBES));
        // Probes are sent only where nothing is on its way: what was sent and never confirmed has a limit of its own.
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(Duration::from_secs(120)));
    }

    fn frame(length: usize, mask: bool) -> Vec<u8> {
        let bit = if mask { 0x80 } else { 0 };
        let mut bytes = vec![0x82];
        match length {
            0..126 => bytes.push(bit | u8::try_from(length).unwrap()),
            126..65_536 => {
                bytes.push(bit + 126);
                bytes.extend(u16::try_from(length).unwrap().to_be_bytes());
            }
            _ => {
                bytes.push(bit + 127);
                bytes.extend((length as u64).to_be_bytes());
            }
        }
        bytes.extend(vec![0xAA; length + if mask { 4 } else { 0 }]);
        bytes
    }

    #[test]
    fn borders_between_frames_are_found_however_the_bytes_are_cut() {
        let frames: Vec<_> = [(0, false), (125, true), (126, false), (65_535, true), (65_536, false), (3, false)]
            .map(|(l, m)| frame(l, m))
            .into();
        let bytes = frames.concat();
        for size in [1, 2, 3, 7, 100, 4096, bytes.len()] {
            let mut follower = Frames::default();
            let mut at = 0;
            for (index, frame) in frames.iter().enumerate() {
                let end = at + frame.len();
                while at < end {
                    let piece = &bytes[at..bytes.len().min(at + size)];
                    at += follower.follow(piece, true);
                    assert!(at <= end, "frame {index}, {size} at once");
                    assert_eq!(follower.is_between(), at == end);
                }
            }
            let mut follower = Frames::default();
            bytes.chunks(size).for_each(|piece| assert_eq!(follower.follow(piece, false), piece.len()));
            assert!(follower.is_between());
        }
    }
}
