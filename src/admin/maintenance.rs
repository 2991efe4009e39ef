//! `/maintenance`: everybody is answered 503, or not any more.

use crate::admin::answer::Answer;
use crate::admin::drain::bad;
use crate::state::Snapshot;

/// With `on=true` or `on=false`; without either it only says how it is.
pub fn maintenance(snapshot: &Snapshot, query: &str) -> Answer {
    let maintenance = &snapshot.shared.maintenance;
    match query {
        "on=true" => maintenance.set_by_command(true),
        "on=false" => maintenance.set_by_command(false),
        "" => {}
        _ => return bad(format!("expected on=true, on=false or nothing; found \"{query}\"")),
    }
    Answer::text(200, sentence(snapshot))
}

fn sentence(snapshot: &Snapshot) -> String {
    let said_by = snapshot.shared.maintenance.said_by();
    let file = snapshot.config.maintenance.file.as_ref().filter(|_| said_by.contains(&"file"));
    match (file, said_by.contains(&"command")) {
        (None, false) => "maintenance is off\n".to_owned(),
        (None, true) => "maintenance is on\n".to_owned(),
        (Some(file), false) => format!("maintenance is on while {} is there\n", file.display()),
        (Some(file), true) => {
            format!("maintenance is on, by command and while {} is there\n", file.display())
        }
    }
}
