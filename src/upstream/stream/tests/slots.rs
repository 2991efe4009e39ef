//! The slot of the app's worker: how long it stays taken when the answer is there.

use super::*;
use crate::upstream::group::Group;
use crate::upstream::rig::{MS, RULES, Rig, at_once, endpoint, settle};

/// A connection that occupies the only slot of an app, for `patience` at most once its exchange is over.
async fn occupying(patience: Duration) -> (UpstreamStream, UnixStream, Arc<Pool>, Arc<Group>) {
    let group = Rig::alone(&[1], 1, &RULES);
    let (mut stream, theirs, pool) = connection();
    stream.occupy(at_once(&group).await, patience);
    begin_get(&mut stream);
    stream.send().await;
    assert!(!arrived(&theirs).is_empty());
    (stream, theirs, pool, group)
}

fn is_occupied(group: &Group) -> bool {
    endpoint(group, 0).is_full()
}

/// The exchange is over, and the connection is not to be kept. What the server does then is `after`.
async fn end(mut stream: UpstreamStream, mut theirs: UnixStream, after: impl AsyncFnOnce(UnixStream)) {
    theirs.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n").await.unwrap();
    assert_eq!(answer(&mut stream).await.unwrap().0, 200);
    after(theirs).await;
    drop(stream);
}

#[tokio::test(start_paused = true)]
async fn a_slot_stays_taken_until_the_server_hangs_up() {
    let (stream, theirs, _pool, group) = occupying(LIMIT).await;
    let mut kept = None;
    end(stream, theirs, async |theirs| kept = Some(theirs)).await;
    let mut theirs = kept.unwrap();
    assert_eq!(theirs.read(&mut [0; 9]).await.unwrap(), 0, "a server that waits for our end sees it");
    settle().await;
    assert!(is_occupied(&group));
    drop(theirs);
    tokio::time::timeout(LIMIT / 2, async {
        while is_occupied(&group) {
            tokio::time::sleep(MS).await;
        }
    })
    .await
    .unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_server_that_does_not_hang_up_is_waited_for_no_longer_than_we_have_patience() {
    let (stream, theirs, _pool, group) = occupying(300 * MS).await;
    let mut kept = None;
    end(stream, theirs, async |theirs| kept = Some(theirs)).await;
    tokio::time::sleep(299 * MS).await;
    assert!(is_occupied(&group));
    tokio::time::sleep(2 * MS).await;
    assert!(!is_occupied(&group));
}

#[tokio::test]
async fn a_slot_is_free_at_once_where_nothing_is_to_be_waited_for() {
    // The server was first.
    let (stream, theirs, _pool, group) = occupying(LIMIT).await;
    end(stream, theirs, async |theirs| drop(theirs)).await;
    assert!(!is_occupied(&group));

    // It says what nobody asked for.
    let (stream, theirs, _pool, group) = occupying(LIMIT).await;
    let mut kept = None;
    end(stream, theirs, async |mut theirs| {
        theirs.write_all(b"more").await.unwrap();
        kept = Some(theirs);
    })
    .await;
    assert!(!is_occupied(&group));

    // The connection is kept.
    let (stream, mut theirs, pool, group) = occupying(LIMIT).await;
    assert!(comes_back(stream, &mut theirs, &pool).await);
    assert!(!is_occupied(&group));

    // The exchange was broken off.
    let (stream, mut theirs, _pool, group) = occupying(LIMIT).await;
    drop(stream);
    assert!(!is_occupied(&group));
    assert_eq!(theirs.read(&mut [0; 9]).await.unwrap(), 0);
}
