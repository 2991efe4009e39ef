//! What is kept, for how long and how much, seen from the server's end of each connection.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::sleep;

use super::*;
use crate::upstream::response_reader::Expected;
use crate::upstream::rig::{exchange, get};

const SECOND: Duration = Duration::from_secs(1);
const LEARNED: Keepalive = Keepalive::Learned { start: SECOND };

/// Our end, wrapped, and the server's.
fn connection(pool: &Arc<Pool>) -> (UpstreamStream, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    (pool.wrap(Socket::Plain(crate::net::Plain::Unix(ours)), None), theirs)
}

/// Has an exchange with the server, after which the connection may be kept.
async fn give_back(mut stream: UpstreamStream, theirs: &mut UnixStream) {
    let answered = exchange(&mut stream, "/", async || {
        read_request(theirs).await.unwrap();
        theirs.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
    });
    assert_eq!(answered.await.0, 204);
}

/// The path that is asked for.
async fn read_request(theirs: &mut UnixStream) -> std::io::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(theirs.read_u8().await?);
    }
    Ok(String::from_utf8(head).unwrap().split(' ').nth(1).unwrap().to_owned())
}

/// A connection of which an exchange has ended.
async fn idle(pool: &Arc<Pool>) -> UnixStream {
    let (stream, mut theirs) = connection(pool);
    give_back(stream, &mut theirs).await;
    theirs
}

/// Whether we have closed the connection.
fn is_closed(theirs: &UnixStream) -> bool {
    rustix::net::recv(theirs, &mut [0_u8; 1], rustix::net::RecvFlags::PEEK | rustix::net::RecvFlags::DONTWAIT)
        .is_ok_and(|(_, len)| len == 0)
}

async fn settle() {
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
}

/// Whether the two are ends of one connection.
async fn is_joined(stream: &mut UpstreamStream, theirs: &mut UnixStream) -> bool {
    stream.begin(&get("/"), false, Expected::default());
    stream.send().await;
    tokio::time::timeout(SECOND, read_request(theirs)).await.is_ok_and(|read| read.is_ok())
}

#[tokio::test(start_paused = true)]
async fn the_one_that_came_back_first_is_used_first() {
    let pool = Pool::new(Keepalive::Fixed(SECOND), None);
    let (mut first, mut second) = (idle(&pool).await, idle(&pool).await);
    assert_eq!(pool.idle(), 2);
    let mut stream = pool.take(None).unwrap();
    assert!(stream.is_reused() && is_joined(&mut stream, &mut first).await);
    assert!(is_joined(&mut pool.take(None).unwrap(), &mut second).await);
    assert!(pool.take(None).is_none());
}

#[tokio::test(start_paused = true)]
async fn a_stream_without_an_exchange_is_closed() {
    let pool = Pool::new(Keepalive::Fixed(SECOND), None);
    let (stream, theirs) = connection(&pool);
    drop(stream);
    assert!(is_closed(&theirs) && pool.idle() == 0);
}

#[tokio::test(start_paused = true)]
async fn off_keeps_nothing() {
    let pool = Pool::new(Keepalive::Off, Some(4));
    assert!(is_closed(&idle(&pool).await));
    assert!(pool.take(None).is_none() && pool.limit().is_zero());
}

#[tokio::test(start_paused = true)]
async fn what_is_over_its_time_is_closed_by_itself_and_the_sweeper_ends() {
    let pool = Pool::new(Keepalive::Fixed(SECOND), None);
    let first = idle(&pool).await;
    sleep(SECOND / 2).await;
    let second = idle(&pool).await;
    sleep(SECOND * 6 / 10).await;
    assert!(is_closed(&first) && !is_closed(&second));
    sleep(SECOND / 2).await;
    settle().await;
    assert!(is_closed(&second));
    assert!(!pool.inner.lock().sweeping);
    let third = idle(&pool).await;
    assert!(pool.inner.lock().sweeping);
    sleep(SECOND * 2).await;
    assert!(is_closed(&third));
}

#[tokio::test(start_paused = true)]
async fn what_was_closed_or_talks_is_not_used_again() {
    let pool = Pool::new(Keepalive::Fixed(SECOND), None);
    let closed = idle(&pool).await;
    let mut talking = idle(&pool).await;
    let mut good = idle(&pool).await;
    drop(closed);
    talking.write_all(b"late").await.unwrap();
    assert!(is_joined(&mut pool.take(None).unwrap(), &mut good).await);
    assert!(is_closed(&talking) || talking.read(&mut [0; 1]).await.is_ok_and(|n| n == 0));
    assert!(pool.take(None).is_none());
}

#[tokio::test(start_paused = true)]
async fn no_more_are_idle_than_the_capacity() {
    let pool = Pool::new(Keepalive::Fixed(SECOND), Some(2));
    let mut streams = Vec::new();
    let mut servers = Vec::new();
    for _ in 0..3 {
        let (stream, theirs) = connection(&pool);
        streams.push(stream);
        servers.push(theirs);
    }
    for (stream, theirs) in streams.into_iter().zip(&mut servers) {
        give_back(stream, theirs).await;
    }
    assert_eq!(pool.idle(), 2);
    assert!(is_closed(&servers[2]));
    // A reload that lowers it closes the oldest.
    pool.configure(Keepalive::Fixed(SECOND), Some(1));
    assert!(pool.idle() == 1 && is_closed(&servers[0]) && !is_closed(&servers[1]));
    // One in flight leaves no room beside it.
    pool.make_room(1);
    assert!(pool.idle() == 0 && is_closed(&servers[1]));

    let pool = Pool::new(Keepalive::Fixed(SECOND), None);
    let mut servers = Vec::new();
    for _ in 0..MOST_IDLE + 10 {
        servers.push(idle(&pool).await);
    }
    assert_eq!(pool.idle(), MOST_IDLE);
}

#[tokio::test(start_paused = true)]
async fn clearing_closes_what_is_idle_and_keeps_nothing_that_is_in_use() {
    let pool = Pool::new(Keepalive::Fixed(SECOND), None);
    let (in_use, mut used) = connection(&pool);
    let waiting = idle(&pool).await;
    pool.clear();
    assert!(is_closed(&waiting) && pool.idle() == 0);
    give_back(in_use, &mut used).await;
    assert!(is_closed(&used) && pool.idle() == 0);
    let fresh = idle(&pool).await;
    assert!(!is_closed(&fresh) && pool.idle() == 1);
}

#[tokio::test(start_paused = true)]
async fn a_reload_that_shortens_the_time_holds_for_what_is_idle() {
    let pool = Pool::new(Keepalive::Fixed(SECOND * 60), None);
    let theirs = idle(&pool).await;
    sleep(SECOND * 2).await;
    pool.configure(Keepalive::Fixed(SECOND), None);
    settle().await;
    assert!(is_closed(&theirs));
    let theirs = idle(&pool).await;
    pool.configure(Keepalive::Off, None);
    assert!(is_closed(&theirs));
}

#[tokio::test(start_paused = true)]
async fn a_pool_that_is_dropped_leaves_nothing_open() {
    let pool = Pool::new(LEARNED, None);
    let theirs = idle(&pool).await;
    sleep(SECOND * 2).await;
    let other = idle(&pool).await;
    assert!(pool.inner.lock().watched.is_some());
    drop(pool);
    settle().await;
    assert!(is_closed(&theirs) && is_closed(&other));
    assert_eq!(tokio::runtime::Handle::current().metrics().num_alive_tasks(), 0);
}

/// Lets a server close each of its idle connections after `closes`, `times` times.
async fn serve(pool: &Arc<Pool>, closes: Duration, times: u32) {
    for _ in 0..times {
        let theirs = idle(pool).await;
        sleep(closes).await;
        drop(theirs);
        // Every real server has a moment between two connections.
        sleep(Duration::from_millis(5)).await;
        settle().await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_servers_time_is_learnt_from_connections_past_their_limit() {
    let pool = Pool::new(LEARNED, None);
    serve(&pool, SECOND * 5, 1).await;
    assert_eq!((pool.close_time(), pool.limit()), (None, SECOND));
    serve(&pool, SECOND * 5, 1).await;
    let known = pool.close_time().unwrap();
    assert!(known >= SECOND * 5 && known < SECOND * 51 / 10, "{known:?}");
    assert_eq!(pool.limit(), known / 2);
    // Nothing is watched for a while, then one again.
    let theirs = idle(&pool).await;
    sleep(SECOND * 3).await;
    assert!(is_closed(&theirs));
    sleep(Duration::from_mins(11)).await;
    let theirs = idle(&pool).await;
    sleep(SECOND * 3).await;
    assert!(!is_closed(&theirs) && pool.idle() == 0);
    // A reload keeps what was learnt; another kind of limit ends it.
    pool.configure(LEARNED, Some(3));
    assert_eq!(pool.limit(), known / 2);
    pool.configure(Keepalive::Fixed(SECOND), Some(3));
    assert!(is_closed(&theirs) && pool.close_time().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_server_that_never_closes_is_watched_for_a_bounded_time() {
    let pool = Pool::new(LEARNED, None);
    for _ in 0..2 {
        let theirs = idle(&pool).await;
        sleep(SECOND * 63).await;
        assert!(!is_closed(&theirs));
        sleep(SECOND * 2).await;
        settle().await;
        assert!(is_closed(&theirs));
    }
    assert!(pool.limit() >= SECOND * 32 && pool.limit() <= SECOND * 33);
}

#[tokio::test(start_paused = true)]
async fn a_watched_connection_makes_room() {
    let pool = Pool::new(LEARNED, Some(2));
    let watched = idle(&pool).await;
    sleep(SECOND * 2).await;
    assert!(!is_closed(&watched) && pool.idle() == 0);
    assert!(pool.take(None).is_none());
    pool.make_room(1);
    assert!(!is_closed(&watched), "one in flight and the watched one are within the capacity");
    pool.make_room(2);
    assert!(is_closed(&watched));
    settle().await;
    let inner = pool.inner.lock();
    let Policy::Learned(learner) = &inner.policy else { panic!("not learned") };
    assert_eq!(learner.doubt(), None, "our own closing says nothing of the server");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_closes_at_once_is_not_kept() {
    let pool = Pool::new(LEARNED, None);
    for _ in 0..12 {
        let (stream, mut theirs) = connection(&pool);
        give_back(stream, &mut theirs).await;
        sleep(Duration::from_millis(2)).await;
        drop(theirs);
        sleep(SECOND * 2 / 3).await;
        drop(pool.take(None));
        sleep(Duration::from_millis(5)).await;
    }
    assert!(pool.limit().is_zero(), "{:?}", pool.close_time());
    assert!(is_closed(&idle(&pool).await));
}

#[tokio::test(start_paused = true)]
async fn a_restart_teaches_nothing() {
    let pool = Pool::new(LEARNED, None);
    for round in 1..4 {
        let mut servers = Vec::new();
        for _ in 0..8 {
            servers.push(idle(&pool).await);
        }
        sleep(Duration::from_millis(200) * round).await;
        drop(servers);
        assert!(pool.take(None).is_none());
    }
    assert_eq!((pool.close_time(), pool.limit()), (None, SECOND));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_is_lost_or_used_twice_under_contention() {
    const CAPACITY: u32 = 4;
    let pool = Pool::new(Keepalive::Fixed(Duration::from_millis(2)), Some(CAPACITY));
    let open = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let slots = Arc::new(tokio::sync::Semaphore::new(CAPACITY as usize));
    let mut tasks = Vec::new();
    for task in 0..16_u64 {
        let (pool, open, slots) = (pool.clone(), open.clone(), slots.clone());
        tasks.push(tokio::spawn(async move {
            for turn in 0..200_u64 {
                let slot = slots.acquire().await.unwrap();
                let mut stream = pool.take(None).unwrap_or_else(|| {
                    let in_flight = CAPACITY - u32::try_from(slots.available_permits()).unwrap();
                    pool.make_room(in_flight);
                    let (stream, mut theirs) = connection(&pool);
                    let open = open.clone();
                    open.fetch_add(1, Relaxed);
                    tokio::spawn(async move {
                        while let Ok(path) = read_request(&mut theirs).await {
                            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{path}", path.len());
                            theirs.write_all(answer.as_bytes()).await.unwrap();
                        }
                        open.fetch_sub(1, Relaxed);
                    });
                    stream
                });
                let question = format!("/{task}/{turn}");
                assert_eq!(exchange(&mut stream, &question, async || {}).await.1, question.as_bytes());
                drop(stream);
                drop(slot);
                if turn % 17 == 0 {
                    sleep(Duration::from_millis(3)).await;
                }
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    assert!(pool.idle() <= CAPACITY as usize);
    tokio::time::timeout(SECOND * 5, async {
        while open.load(Relaxed) > 0 {
            sleep(Duration::from_millis(1)).await;
        }
    })
    .await
    .unwrap();
}
