//! `propylon purge`: what is kept is given no more.

use clap::Args;

use super::{ANSWER_PATIENCE, Control, Failure, encode};

/// Bytes of parameters in one request; more go in several.
const AT_ONCE: usize = 8 * 1024;

#[derive(Debug, Args)]
pub(super) struct Purge {
    /// Whole URLs; the scheme does not matter. Every variant under them goes.
    #[arg(value_name = "URL")]
    urls: Vec<String>,
    /// What begins so: a URL as far as some place in its path. May be repeated.
    #[arg(long, value_name = "URL")]
    prefix: Vec<String>,
    /// What the app has given this tag, in Surrogate-Key or Cache-Tag. May be repeated.
    #[arg(long, value_name = "TAG")]
    tag: Vec<String>,
    /// Everything.
    #[arg(long)]
    all: bool,
    /// Only make it stale: it may be given while a new answer is fetched, or where none can be, as the rule allows.
    #[arg(long)]
    soft: bool,
    #[command(flatten)]
    control: Control,
}

impl Purge {
    pub(super) fn execute(&self) -> Result<String, Failure> {
        let lists = [("url", &self.urls), ("prefix", &self.prefix), ("tag", &self.tag)];
        let named = lists.iter().flat_map(|(name, list)| list.iter().map(move |value| (*name, encode(value))));
        let mut parameters: Vec<String> = named.map(|(name, value)| format!("{name}={value}")).collect();
        parameters.extend(self.all.then(|| "all=true".to_owned()));
        if parameters.is_empty() {
            return Err(Failure::bad_input("name what to purge: a URL, --prefix, --tag or --all"));
        }
        let mut report = String::new();
        for query in batches(&parameters) {
            match self.control.post(&format!("/purge?{query}&soft={}", self.soft), ANSWER_PATIENCE, "")? {
                (200, done) => report.push_str(&done),
                (400, problem) => return Err(Failure::bad_input(&problem)),
                (status, body) => return Err(Failure::failed(&format!("unexpected answer {status}: {body}"))),
            }
        }
        Ok(report)
    }
}

fn batches(parameters: &[String]) -> Vec<String> {
    let mut batches: Vec<String> = Vec::new();
    for parameter in parameters {
        match batches.last_mut().filter(|batch| batch.len() + parameter.len() < AT_ONCE) {
            Some(batch) => {
                batch.push('&');
                batch.push_str(parameter);
            }
            None => batches.push(parameter.clone()),
        }
    }
    batches
}
