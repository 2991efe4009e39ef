//! What is on disk outlives the process, is whole or gone, and stays within its bytes.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tempfile::TempDir;

use super::{Said, app, builder_with, purge, status_of};
use crate::harness::{Broken, Gate, Gateway, GatewayBuilder, Origin, Signal, eventually, rounds, scripted_delay};

/// A directory, and gateways that have it one after the other.
struct Place {
    dir: TempDir,
    origin: Origin,
    sizes: &'static str,
}

impl Place {
    fn new(origin: Origin) -> Self {
        Self { dir: tempfile::tempdir().unwrap(), origin, sizes: "" }
    }

    fn builder(&self, rule: &str) -> GatewayBuilder {
        let disk = format!("disk = {{ path = \"{}\", max = \"16MiB\" }}\n{}", self.dir.path().display(), self.sizes);
        builder_with(&self.origin, rule, "", &disk)
    }

    fn start(&self) -> Gateway {
        let gateway = self.builder("ttl = \"1h\"").start();
        loaded(&gateway);
        gateway
    }

    /// All files of answers.
    fn files(&self) -> Vec<PathBuf> {
        let folder = self.dir.path().join("propylon-cache-1");
        let places = fs::read_dir(folder).unwrap().map(|place| place.unwrap());
        let places = places.filter(|place| place.file_name().len() == 2).map(|place| place.path());
        places.flat_map(|place| fs::read_dir(place).unwrap()).map(|file| file.unwrap().path()).collect()
    }
}

fn loaded(gateway: &Gateway) {
    eventually("the disk is known", || {
        gateway.metrics().value("propylon_cache_disk_loaded", &[]).filter(|loaded| *loaded == 1.0)
    });
}

#[track_caller]
fn wait_for_written(gateway: &Gateway, count: f64) {
    eventually("the answers are written", || {
        let written = gateway.metrics().value("propylon_cache_disk_writes_total", &[("result", "written")]);
        written.filter(|written| *written >= count)
    });
}

fn numbered() -> Origin {
    app(|request, count| {
        let vary = if request.target.starts_with("/vary") { "Vary: Accept-Language" } else { "" };
        Said::ok(&format!("Cache-Tag: t{}\nETag: \"{count}\"\n{vary}", request.target.len()), format!("body {count}"))
    })
}

#[test]
fn what_was_kept_is_there_after_a_restart_and_after_a_kill() {
    let place = Place::new(numbered());
    let gateway = place.start();
    let get = |gateway: &Gateway, target: &str, language: &str| {
        gateway.connect().request("GET", target, &[("Accept-Language", language)], "").expect(200)
    };
    let first = get(&gateway, "/a", "de");
    assert_eq!([get(&gateway, "/vary", "de").text(), get(&gateway, "/vary", "en").text()], ["body 1", "body 2"]);
    wait_for_written(&gateway, 3.0);
    let labels = [("tier", "disk"), ("rule", "all")];
    // The answers, and what they depend on.
    assert_eq!(gateway.metrics().value("propylon_cache_entries", &labels), Some(4.0));
    gateway.stop();
    for round in 0..3 {
        let gateway = place.start();
        assert_eq!(gateway.metrics().value("propylon_cache_entries", &labels), Some(4.0));
        let again = get(&gateway, "/a", "de");
        assert_eq!((again.text(), again.field("etag")), ("body 0", Some("\"0\"")));
        assert_eq!(again.field("date"), first.field("date").or(again.field("date")));
        assert!(status_of(&again).starts_with("propylon; hit; ttl="), "{again}");
        assert_eq!([get(&gateway, "/vary", "de").text(), get(&gateway, "/vary", "en").text()], ["body 1", "body 2"]);
        // They are in memory now.
        assert_eq!(
            gateway.metrics().value("propylon_cache_entries", &[("tier", "memory"), ("rule", "all")]),
            Some(3.0)
        );
        if round == 0 { drop(gateway.stop()) } else { gateway.kill() }
    }
    assert_eq!(place.origin.requests().len(), 3);
}

#[test]
fn a_file_that_is_torn_or_foreign_is_dropped_and_never_given() {
    type Spoil = fn(&Path);
    let spoilers: [(&str, Spoil); 6] = [
        ("cut", |file| {
            let bytes = fs::read(file).unwrap();
            fs::write(file, &bytes[..bytes.len() - 1]).unwrap();
        }),
        ("longer", |file| {
            let bytes = fs::read(file).unwrap();
            fs::write(file, [&bytes[..], b"x"].concat()).unwrap();
        }),
        ("a byte of the body", |file| {
            let mut bytes = fs::read(file).unwrap();
            *bytes.last_mut().unwrap() ^= 1;
            fs::write(file, bytes).unwrap();
        }),
        ("a byte of the head", |file| {
            let mut bytes = fs::read(file).unwrap();
            bytes[60] ^= 1;
            fs::write(file, bytes).unwrap();
        }),
        ("empty", |file| fs::write(file, b"").unwrap()),
        ("another's", |file| fs::write(file, vec![b'x'; 5000]).unwrap()),
    ];
    for (what, spoil) in spoilers {
        let place = Place::new(numbered());
        let gateway = place.start();
        gateway.get("/a").expect(200);
        wait_for_written(&gateway, 1.0);
        gateway.stop();
        place.files().iter().for_each(|file| spoil(file));
        let gateway = place.start();
        assert_eq!(gateway.get("/a").expect(200).text(), "body 1", "{what}");
        assert_eq!(gateway.metrics().value("propylon_cache_disk_torn_total", &[]), Some(1.0), "{what}");
        wait_for_written(&gateway, 1.0);
        gateway.stop();
        assert_eq!(place.start().get("/a").expect(200).text(), "body 1", "{what}: and the new one is good");
    }
}

#[test]
fn one_answer_under_the_name_of_another_is_not_given() {
    let place = Place::new(numbered());
    let gateway = place.start();
    gateway.get("/a").expect(200);
    wait_for_written(&gateway, 1.0);
    let name = place.files()[0].clone();
    gateway.get("/b").expect(200);
    wait_for_written(&gateway, 2.0);
    let other = place.files().into_iter().find(|file| *file != name).unwrap();
    gateway.stop();
    fs::copy(other, &name).unwrap();
    let gateway = place.start();
    assert_eq!(gateway.get("/a").expect(200).text(), "body 2");
}

#[test]
fn what_does_not_belong_there_goes() {
    let place = Place::new(numbered());
    place.start().stop();
    let folder = place.dir.path().join("propylon-cache-1");
    fs::create_dir_all(folder.join("3f")).unwrap();
    fs::write(folder.join("3f/somebody-elses"), b"x").unwrap();
    fs::write(folder.join("aside/17"), b"half of").unwrap();
    fs::write(place.dir.path().join("not-in-the-folder"), b"x").unwrap();
    let _gateway = place.start();
    assert!(!folder.join("3f/somebody-elses").exists() && !folder.join("aside/17").exists());
    assert!(place.dir.path().join("not-in-the-folder").exists());
}

#[test]
fn what_was_purged_stays_so_after_a_restart() {
    for arguments in [
        &["http://test/a"][..],
        &["http://test/vary"],
        &["--prefix", "http://test/"],
        &["--tag", "t2", "--tag", "t5"],
        &["--all"],
        &["--soft", "--tag", "t2", "--tag", "t5"],
    ] {
        let place = Place::new(numbered());
        let gateway = place.start();
        let get = |gateway: &Gateway, target| gateway.get(target).expect(200).text().to_owned();
        let before = [get(&gateway, "/a"), get(&gateway, "/vary")];
        wait_for_written(&gateway, 2.0);
        gateway.stop();
        // Purged by a process that has only found them.
        let gateway = place.start();
        purge(&gateway, arguments);
        if arguments[0].starts_with("http") {
            // What is doomed goes by the thread's next step.
            eventually("the file is gone", || (place.files().len() == 2).then_some(()));
        }
        gateway.kill();
        let gateway = place.start();
        let after = [get(&gateway, "/a"), get(&gateway, "/vary")];
        let gone = [before[0] != after[0], before[1] != after[1]];
        let expected = match arguments[0] {
            "http://test/a" => [true, false],
            "http://test/vary" => [false, true],
            _ => [true, true],
        };
        assert_eq!(gone, expected, "{arguments:?}");
    }
}

#[test]
fn what_was_purged_softly_is_gone_before_it_is_forgotten_that_it_was() {
    let place = Place::new(numbered());
    let gateway = place.start();
    gateway.get("/a").expect(200);
    wait_for_written(&gateway, 1.0);
    purge(&gateway, &["--soft", "--tag", "t2", "--tag", "t5"]);
    // More than the log is to hold.
    for number in 0..110 {
        purge(&gateway, &["--prefix", &format!("http://test/{number}/{}", "x".repeat(10_000))]);
    }
    eventually("the file is gone", || place.files().is_empty().then_some(()));
}

#[test]
fn what_was_purged_by_a_process_that_waited_for_the_directory_stays_so() {
    for arguments in [&["http://test/a"][..], &["--tag", "t2", "--tag", "t5"], &["--soft", "--prefix", "http://test/"]]
    {
        let place = Place::new(numbered());
        let old = place.start();
        let before = old.get("/a").expect(200).text().to_owned();
        wait_for_written(&old, 1.0);
        let new = place.builder("ttl = \"1h\"").start();
        purge(&new, arguments);
        old.stop();
        loaded(&new);
        new.stop();
        assert_ne!(place.start().get("/a").expect(200).text(), before, "{arguments:?}");
    }
}

#[test]
fn what_is_stale_on_disk_alone_is_given_to_all_while_one_refreshes_it() {
    let gate = Gate::new();
    let held = gate.clone();
    let origin = app(move |_, count| {
        if count > 0 {
            held.wait();
        }
        let mut body = vec![b'x'; 2 << 20];
        body[0] = b'0' + u8::try_from(count).unwrap();
        Said::ok("", body)
    });
    let mut place = Place::new(origin);
    place.sizes = "memory = \"1MiB\"\nmax_body = \"4MiB\"";
    let rule = "ttl = \"500ms\"\nstale_while_revalidate = \"1h\"\ncollapse_timeout = \"1h\"";
    let gateway = place.builder(rule).start();
    loaded(&gateway);
    assert_eq!(gateway.get("/").expect(200).body[0], b'0');
    wait_for_written(&gateway, 1.0);
    scripted_delay(Duration::from_millis(600));
    for _ in 0..3 {
        assert_eq!(gateway.get("/").expect(200).body[0], b'0');
    }
    gate.open();
    eventually("the new answer is there", || (gateway.get("/").expect(200).body[0] > b'0').then_some(()));
}

#[test]
fn what_a_post_has_ended_does_not_come_back() {
    let place = Place::new(numbered());
    let gateway = place.start();
    gateway.get("/a").expect(200);
    wait_for_written(&gateway, 1.0);
    gateway.stop();
    let gateway = place.start();
    gateway.connect().request("POST", "/a", &[], "x").expect(200);
    assert_eq!(gateway.get("/a").expect(200).text(), "body 2");
    wait_for_written(&gateway, 1.0);
    gateway.stop();
    assert_eq!(place.start().get("/a").expect(200).text(), "body 2");
}

#[test]
fn a_slow_reader_of_what_is_stale_on_disk_keeps_nobody_waiting() {
    let origin = app(|_, count| {
        let mut body = vec![b'x'; 12 << 20];
        body[0] = b'0' + u8::try_from(count).unwrap();
        Said::ok("", body)
    });
    let dir = tempfile::tempdir().unwrap();
    let disk = format!("disk = {{ path = \"{}\", max = \"128MiB\" }}", dir.path().display());
    let rule = "ttl = \"500ms\"\nstale_if_error = \"1h\"\ncollapse_timeout = \"1h\"";
    let gateway = builder_with(&origin, rule, "", &format!("{disk}\nmemory = \"1MiB\"\nmax_body = \"16MiB\"")).start();
    loaded(&gateway);
    assert_eq!(gateway.get("/").expect(200).body[0], b'0');
    wait_for_written(&gateway, 1.0);
    scripted_delay(Duration::from_millis(600));
    let mut slow = gateway.connect();
    slow.set_receive_buffer(4096);
    slow.send_request("GET", "/", &[("Cache-Control", "max-stale")], "");
    assert!(status_of(&slow.response_head().expect(200)).starts_with("propylon; hit"));
    assert_eq!(gateway.get("/").expect(200).body[0], b'1');
    slow.reset();
}

#[test]
fn bodies_too_large_for_memory_are_on_disk_alone() {
    let body: Vec<u8> = (0..250_000_u32).flat_map(u32::to_le_bytes).collect();
    let expected = body.clone();
    let mut place = Place::new(app(move |request, _| match request.field("if-none-match") {
        Some(_) => Said::status(304, "ETag: \"1\"\nX-New: yes", ""),
        None => Said::ok("ETag: \"1\"", &body),
    }));
    place.sizes = "memory = \"1MiB\"\nmax_body = \"2MiB\"";
    let gateway = place.builder("ttl = \"1h\"").allow_error("a block is not what was written").start();
    loaded(&gateway);
    assert_eq!(gateway.get("/large").expect(200).body, expected);
    wait_for_written(&gateway, 1.0);
    for _ in 0..2 {
        let again = gateway.get("/large").expect(200);
        assert!(again.body == expected && status_of(&again).starts_with("propylon; hit"), "{}", status_of(&again));
    }
    eventually("nothing of it is in memory", || {
        let entries = gateway.metrics().value("propylon_cache_entries", &[("tier", "memory"), ("rule", "all")]);
        entries.filter(|entries| *entries == 0.0)
    });
    let range = |range: &str| gateway.connect().request("GET", "/large", &[("Range", range)], "");
    assert_eq!(range("bytes=262000-600000").expect(206).body, &expected[262_000..=600_000]);
    assert_eq!(range("bytes=-5").expect(206).body, &expected[expected.len() - 5..]);
    assert_eq!(range("bytes=0-1,5-6").expect(200).body, expected, "several parts are not put together");
    assert_eq!(
        gateway.connect().request("HEAD", "/large", &[], "").expect(200).field("content-length"),
        Some("1000000")
    );
    assert_eq!(place.origin.requests().len(), 1);

    // The app has nothing new: what is said of it now is written with the body that is there, which was never in memory.
    let reload = [("Cache-Control", "max-age=0")];
    let confirmed = gateway.connect().request("GET", "/large", &reload, "").expect(200);
    assert!(confirmed.body == expected && confirmed.field("x-new") == Some("yes"), "{}", status_of(&confirmed));
    wait_for_written(&gateway, 2.0);
    let kept = gateway.get("/large").expect(200);
    assert!(kept.body == expected && kept.field("x-new") == Some("yes"), "{}", status_of(&kept));
    assert_eq!(place.origin.requests().len(), 2);

    // A block that is torn shows when it is read: the answer is cut there, and nothing wrong is given.
    let file = &place.files()[0];
    let mut bytes = fs::read(file).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(file, bytes).unwrap();
    let mut client = gateway.connect();
    client.send_request("GET", "/large", &[], "");
    let cut = client.try_response().unwrap_err().truncated();
    assert!(cut.body.len() < expected.len() && expected.starts_with(&cut.body), "{}", cut.body.len());
    assert_eq!(gateway.get("/large").expect(200).body, expected);
    assert_eq!(place.origin.requests().len(), 3, "what was torn is gone");
}

#[test]
fn all_files_stay_within_their_bytes() {
    let body = vec![7; 100_000];
    let place = Place::new(app(move |_, _| Said::ok("", &body)));
    let gateway = place.start();
    for number in 0..400 {
        gateway.get(&format!("/{number}")).expect(200);
    }
    wait_for_written(&gateway, 400.0);
    let bytes: u64 = place.files().iter().map(|file| file.metadata().unwrap().len().next_multiple_of(4096)).sum();
    assert!(bytes <= 16 << 20, "{bytes}");
    assert!(bytes > 12 << 20, "{bytes}");
}

#[test]
fn one_process_at_a_time_has_the_directory() {
    let place = Place::new(numbered());
    let first = place.start();
    first.get("/a").expect(200);
    wait_for_written(&first, 1.0);
    let second = place.builder("ttl = \"1h\"").start();
    second.wait_for_log("another process has the disk cache");
    assert_eq!(second.get("/a").expect(200).text(), "body 1", "it does without");
    first.stop();
    loaded(&second);
    assert_eq!(second.metrics().value("propylon_cache_entries", &[("tier", "disk"), ("rule", "all")]), Some(1.0));
}

#[test]
fn a_directory_that_cannot_be_written_is_said() {
    let place = Place::new(numbered());
    let builder = builder_with(&place.origin, "", "", "disk = { path = \"/proc/nowhere\" }");
    let refused = builder.expect_refused();
    assert!(refused.stderr.contains("cache.disk.path: no file can be made in /proc/nowhere"), "{}", refused.stderr);
}

/// Killed again and again while answers are fetched, written and read: what is given, then and afterwards, is whole.
#[test]
fn killed_during_fills() {
    // Each resource has one content, whoever asks; of several sizes, some of them on disk alone.
    let content = |target: &str| -> Vec<u8> {
        let number: usize = target.trim_start_matches('/').parse().unwrap();
        let length = [10, 5_000, 40_000, 400_000][number % 4];
        format!("{number}.").into_bytes().into_iter().cycle().take(length).collect()
    };
    let mut place = Place::new(app(move |request, _| Said::ok("", content(&request.target))));
    place.sizes = "memory = \"1MiB\"\nmax_body = \"1MiB\"";
    let given = AtomicUsize::new(0);
    let (mut hits, mut torn) = (0.0, 0.0);
    for round in 0..rounds(5, 100) {
        let gateway = place.builder("ttl = \"1h\"").start();
        let before = given.load(Ordering::SeqCst);
        std::thread::scope(|scope| {
            for part in 0..4 {
                let (gateway, given) = (&gateway, &given);
                scope.spawn(move || {
                    let mut client = gateway.connect();
                    for number in 0.. {
                        let target = format!("/{}", (number * 7 + part * 11 + round) % 60);
                        if client.try_send(format!("GET {target} HTTP/1.1\r\nHost: test\r\n\r\n")).is_err() {
                            return;
                        }
                        match client.try_response() {
                            Ok(answer) => assert!(answer.body == content(&target), "{target}: {answer}"),
                            Err(Broken::Truncated(part)) => {
                                assert!(content(&target).starts_with(&part.body), "{target}: {part}");
                                return;
                            }
                            Err(_) => return,
                        }
                        given.fetch_add(1, Ordering::SeqCst);
                    }
                });
            }
            eventually("some are given", || (given.load(Ordering::SeqCst) > before + 100 + round % 50).then_some(()));
            let metrics = gateway.metrics();
            hits += metrics.value("propylon_cache_requests_total", &[("rule", "all"), ("result", "hit")]).unwrap();
            torn += metrics.value("propylon_cache_disk_torn_total", &[]).unwrap();
            gateway.signal(Signal::KILL);
        });
        gateway.kill();
    }
    println!("{} answers, all whole; {hits} from the cache, {torn} files torn", given.load(Ordering::SeqCst));
    assert!(hits > 0.0);
}
