//! Configurations: whatever the text, it ends in one that can be used or in errors that an operator finds the place of.

use propylon::config::model::{Action, Config};
use propylon::config::{Notice, diff, parse};
use propylon::route::host::AllowedHosts;
use propylon::route::table::Table;

/// Takes the text of a configuration.
pub fn check(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    // What a machine has there is not the same twice, and some of it never ends.
    if ["/proc", "/sys", "/dev"].iter().any(|folder| text.contains(folder)) {
        return;
    }
    let first = parse(&text, None);
    let again = parse(&text, None);
    match (first, again) {
        (Ok((config, warnings)), Ok((same, _))) => {
            for warning in &warnings {
                check_notice(&text, &warning.0);
            }
            check_use(&config);
            let described = format!("{config:?}");
            assert_eq!(described, format!("{same:?}"));
            let (longer, _) = parse(&format!("{text}\n# A comment."), None).expect("a comment changes nothing");
            assert_eq!(described, format!("{longer:?}"));
            assert!(diff::restart_only_changes(&config, &longer).is_empty());
            let nothing = diff::Summary {
                routes_before: config.routes.len(),
                routes_now: config.routes.len(),
                ..diff::Summary::default()
            };
            assert_eq!(diff::summary(&config, &longer), nothing);
        }
        (Err(errors), Err(same)) => {
            assert_eq!(errors, same);
            assert!(!errors.problems().is_empty());
            for problem in errors.problems() {
                assert!(problem.line.is_some(), "{problem} is nowhere");
                check_notice(&text, problem);
            }
            assert!(errors.problems().is_sorted_by_key(|problem| (problem.line, problem.column)));
        }
        _ => panic!("one text, two answers"),
    }
}

/// One line that a terminal shows as it is, with a place that is in the text.
fn check_notice(text: &str, notice: &Notice) {
    let said = notice.to_string();
    assert!(!said.chars().any(char::is_control), "{said:?}");
    assert!(!notice.message.is_empty());
    if let (Some(line), Some(column)) = (notice.line, notice.column) {
        // Behind the last newline there is one more line, if an empty one.
        let found = text.split('\n').nth(line - 1);
        assert!(found.is_some_and(|found| (1..=found.chars().count() + 1).contains(&column)), "{said}: no such place");
    }
}

/// What is built from it when the gateway starts.
fn check_use(config: &Config) {
    let _ = (Table::build(&config.routes), AllowedHosts::new(&config.server.allowed_hosts));
    for route in &config.routes {
        assert!(!route.name.is_empty());
        assert!(!matches!(route.action, Action::Upstream(index) if index >= config.upstreams.len()));
    }
    let mut names: Vec<_> = config.routes.iter().map(|route| &route.name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), config.routes.len(), "two routes of one name");
    assert!(config.restart.threads >= 1);
    assert!(config.spool.memory_per_body <= config.spool.memory && config.spool.disk_per_body <= config.spool.disk);
}
