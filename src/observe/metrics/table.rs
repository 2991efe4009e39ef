//! Every metric there is: its name, its kind, its labels in order, its help text. `docs/metrics.md` is compared with this table.
//!
//! Names start with `propylon_`, units are seconds and bytes, and a label's value comes from a name in the configuration or
//! from a closed set in `label.rs`. The `process_` metrics bear the names every Prometheus client gives them.

/// What a metric is, as its `# TYPE` line says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows, until the process starts again.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts durations by buckets.
    Histogram,
}

impl Kind {
    /// The word in the exposition format.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// One metric.
#[derive(Debug)]
pub struct Family {
    /// As it is scraped.
    pub name: &'static str,
    /// Counter, gauge or histogram.
    pub kind: Kind,
    /// Names of the labels, in the order in which values are given.
    pub labels: &'static [&'static str],
    /// One sentence for the operator.
    pub help: &'static str,
}

macro_rules! families {
    ($($id:ident: $kind:ident $name:literal [$($label:literal),*] $help:literal;)+) => {
        $(pub(super) static $id: Family = Family { name: $name, kind: Kind::$kind, labels: &[$($label),*], help: $help };)+

        /// Every metric, in the order of the page.
        pub static ALL: &[&Family] = &[$(&$id),+];
    };
}

families! {
    REQUESTS: Counter "propylon_requests_total" ["route", "method", "code"]
        "Requests that were answered, by route, method and class of the status code.";
    REQUEST_DURATION: Histogram "propylon_request_duration_seconds" ["route"]
        "Time from a request's first byte to the end of its response.";
    REQUESTS_IN_FLIGHT: Gauge "propylon_requests_in_flight" ["route"]
        "Requests that have a route and are not finished.";
    REQUEST_BYTES: Counter "propylon_request_bytes_total" ["route"]
        "Bytes of request bodies received from clients.";
    RESPONSE_BYTES: Counter "propylon_response_bytes_total" ["route"]
        "Bytes of response bodies sent to clients.";
    CLIENT_ABORTS: Counter "propylon_client_aborts_total" ["route"]
        "Requests whose client left before its response was whole.";
    REJECTIONS: Counter "propylon_rejections_total" ["reason"]
        "Requests that the gateway answered itself, by reason.";
    FIELDS_DROPPED: Counter "propylon_fields_dropped_total" ["reason"]
        "Request fields that were not passed on, because of their name or because only the gateway may set them.";
    PASSWORD_CHECKS: Counter "propylon_password_checks_total" ["result"]
        "Passwords that were checked, by whether they were right; those remembered from before are not checked again.";
    MAINTENANCE: Gauge "propylon_maintenance" []
        "1 while every request is answered 503 for maintenance.";

    RATE_LIMIT_DECISIONS: Counter "propylon_rate_limit_decisions_total" ["limit", "decision"]
        "Requests that met a rate limit, by what it made of them.";
    RATE_LIMIT_KNOWN_EMPTY: Counter "propylon_rate_limit_known_empty_total" ["limit"]
        "Requests whose bucket was known to be empty, so that Redis was not asked.";
    RATE_LIMIT_REDIS_ERRORS: Counter "propylon_rate_limit_redis_errors_total" ["limit", "kind"]
        "Requests that on_redis_down decided, by what was wrong with Redis.";
    RATE_LIMIT_REDIS: Histogram "propylon_rate_limit_redis_seconds" ["limit"]
        "Time a request waited for Redis, answered or not.";

    REDIS_UP: Gauge "propylon_redis_up" ["user"]
        "1 while Redis answers, 0 while it is not asked.";
    REDIS_STATE_CHANGES: Counter "propylon_redis_state_changes_total" ["user", "state"]
        "Times Redis was found to answer, or to answer no more.";

    CACHE_REQUESTS: Counter "propylon_cache_requests_total" ["rule", "result"]
        "GET and HEAD requests that met a cache rule, by what became of them.";
    CACHE_BYPASSES: Counter "propylon_cache_bypasses_total" ["rule", "reason"]
        "Requests that went past the cache, by reason.";
    CACHE_STORED: Counter "propylon_cache_stored_total" ["rule"]
        "Responses that were kept, those that were found unchanged among them.";
    CACHE_NOT_STORED: Counter "propylon_cache_not_stored_total" ["rule", "reason"]
        "Responses that were not kept, by reason.";
    CACHE_ENTRIES: Gauge "propylon_cache_entries" ["tier", "rule"]
        "Responses that are kept, those that a client still reads after they were dropped among them.";
    CACHE_BYTES: Gauge "propylon_cache_bytes" ["tier", "rule"]
        "Bytes of them, heads and bookkeeping included.";
    CACHE_DISK_WRITES: Counter "propylon_cache_disk_writes_total" ["result"]
        "Responses that were to be written to disk, by what became of them.";
    CACHE_DISK_TORN: Counter "propylon_cache_disk_torn_total" []
        "Files on disk that were torn, of something else or not readable, and dropped.";
    CACHE_DISK_LOADED: Gauge "propylon_cache_disk_loaded" []
        "1 once it is known which files there are.";

    CACHE_SHARED_LOOKS: Counter "propylon_cache_shared_looks_total" ["result"]
        "Questions to Redis for an answer, or for the right to fetch it, by what came back.";
    CACHE_SHARED_WRITES: Counter "propylon_cache_shared_writes_total" ["result"]
        "Responses that were to be kept in Redis, by what became of them.";
    CACHE_SHARED_PURGES: Counter "propylon_cache_shared_purges_total" ["direction"]
        "Purges that other gateways were told of, and that they told of.";
    CACHE_SHARED_CURRENT: Gauge "propylon_cache_shared_current" []
        "1 while the purges of other gateways are known here, 0 while what is in Redis is not used.";

    UPSTREAM_REQUESTS: Counter "propylon_upstream_requests_total" ["upstream", "endpoint", "code"]
        "Responses of an endpoint, by class of the status code.";
    UPSTREAM_ERRORS: Counter "propylon_upstream_errors_total" ["upstream", "endpoint", "kind"]
        "Attempts that brought no response or half of one, by what went wrong.";
    UPSTREAM_IN_FLIGHT: Gauge "propylon_upstream_in_flight" ["upstream", "endpoint"]
        "Requests an endpoint is working on for this gateway.";
    UPSTREAM_CAPACITY: Gauge "propylon_upstream_capacity" ["upstream", "endpoint"]
        "Requests an endpoint may work on at once; absent where it is not limited.";
    UPSTREAM_HEALTHY: Gauge "propylon_upstream_healthy" ["upstream", "endpoint"]
        "1 while an endpoint is given requests, 0 while it is held to be down.";
    UPSTREAM_HEALTH_CHECKS: Counter "propylon_upstream_health_checks_total" ["upstream", "endpoint", "result"]
        "Health checks by how they ended; ignored are those that found every slot busy.";
    UPSTREAM_CONNECTIONS: Counter "propylon_upstream_connections_total" ["upstream", "endpoint", "reused"]
        "Connections that carried an attempt, by whether they were open already.";
    UPSTREAM_REUSE_FAILURES: Counter "propylon_upstream_reuse_failures_total" ["upstream", "endpoint"]
        "Attempts on an open connection that the endpoint had closed by then.";
    UPSTREAM_FIRST_BYTE: Histogram "propylon_upstream_first_byte_seconds" ["upstream", "endpoint"]
        "Time from the request sent to the first byte of the endpoint's response.";
    UPSTREAM_DURATION: Histogram "propylon_upstream_duration_seconds" ["upstream", "endpoint"]
        "Time an endpoint was held by a request, from the request sent to the end of the response.";
    UPSTREAM_CONNECT: Histogram "propylon_upstream_connect_seconds" ["upstream"]
        "Time until a new connection to an endpoint was ready, TLS included.";
    UPSTREAM_RETRIES: Counter "propylon_upstream_retries_total" ["upstream", "kind"]
        "Attempts beyond a request's first, by why they were allowed.";
    UPSTREAM_RETRY_BUDGET_EXHAUSTED: Counter "propylon_upstream_retry_budget_exhausted_total" ["upstream"]
        "Retries that did not happen because the budget was spent.";
    UPSTREAM_RESOLVE_FAILURES: Counter "propylon_upstream_resolve_failures_total" ["upstream"]
        "Name lookups that failed; the addresses found before stay in use.";

    QUEUE_DEPTH: Gauge "propylon_queue_depth" ["upstream"]
        "Requests that wait for a free slot on an endpoint.";
    QUEUE_MAX: Gauge "propylon_queue_max" ["upstream"]
        "Requests that may wait at once; one more is refused.";
    QUEUE_WAIT: Histogram "propylon_queue_wait_seconds" ["upstream"]
        "Time in the queue of the requests that waited and got a slot.";
    QUEUE_DROPS: Counter "propylon_queue_drops_total" ["upstream", "reason"]
        "Requests that needed to wait and got no slot, by reason.";

    ENDPOINT_EJECTED: Gauge "propylon_endpoint_ejected" ["upstream", "endpoint"]
        "1 while an endpoint is left out because its last attempts failed.";
    ENDPOINT_EJECTIONS: Counter "propylon_endpoint_ejections_total" ["upstream", "endpoint"]
        "Times an endpoint was left out because its last attempts failed.";
    ENDPOINT_DRAINED: Gauge "propylon_endpoint_drained" ["upstream", "endpoint"]
        "1 while an operator keeps an endpoint from new requests.";
    ENDPOINT_UNREACHABLE: Gauge "propylon_endpoint_unreachable" ["upstream", "endpoint"]
        "1 while connections to an endpoint cannot be made and its requests are held.";
    ENDPOINT_OVERDUE: Gauge "propylon_endpoint_overdue" ["upstream", "endpoint"]
        "Requests an endpoint still works on after their client was answered 504; each holds its slot.";
    ENDPOINT_IDLE_CONNECTIONS: Gauge "propylon_endpoint_idle_connections" ["upstream", "endpoint"]
        "Open connections to an endpoint that no request uses.";
    ENDPOINT_KEEPALIVE: Gauge "propylon_endpoint_keepalive_seconds" ["upstream", "endpoint"]
        "How long an idle connection to an endpoint is kept for reuse; 0 where none is kept.";

    SPOOL_MEMORY: Gauge "propylon_spool_memory_bytes" []
        "Memory that request and response bodies hold.";
    SPOOL_MEMORY_LIMIT: Gauge "propylon_spool_memory_limit_bytes" []
        "Memory that they may hold; what is more goes to disk.";
    SPOOL_DISK: Gauge "propylon_spool_disk_bytes" []
        "Disk space that is set aside for bodies.";
    SPOOL_DISK_LIMIT: Gauge "propylon_spool_disk_limit_bytes" []
        "Disk space that may be set aside for bodies.";
    SPOOL_FILES: Gauge "propylon_spool_files" []
        "Open files with bodies; they have no name in the directory.";
    SPOOL_BODIES_ON_DISK: Counter "propylon_spool_bodies_on_disk_total" []
        "Times a body went to disk.";
    SPOOL_DISK_WRITTEN: Counter "propylon_spool_disk_written_bytes_total" []
        "Bytes of bodies written to disk.";
    SPOOL_FULL: Counter "propylon_spool_full_total" ["limit"]
        "Bodies that met a limit of the disk: requests are refused, responses wait for their client.";
    SPOOL_IO_ERRORS: Counter "propylon_spool_io_errors_total" []
        "Files of bodies that could not be made, written or read.";

    CONNECTIONS: Gauge "propylon_connections" ["listener", "state"]
        "Open client connections, by whether a request is under way.";
    CONNECTIONS_ACCEPTED: Counter "propylon_connections_total" ["listener"]
        "Client connections accepted, those refused at once included.";
    CONNECTIONS_REFUSED: Counter "propylon_connections_refused_total" ["listener", "reason"]
        "Client connections closed at once, by the limit they met.";
    ACCEPT_ERRORS: Counter "propylon_accept_errors_total" ["listener"]
        "Failures of accept; steady growth means that descriptors or memory ran out.";
    TLS_HANDSHAKES: Counter "propylon_tls_handshakes_total" ["listener", "result"]
        "TLS handshakes with clients, by how they ended.";
    TLS_CERTIFICATE_EXPIRY: Gauge "propylon_tls_certificate_expiry_timestamp_seconds" ["file"]
        "When a certificate in use expires, in seconds since 1970.";
    TLS_FILES_REFUSED: Gauge "propylon_tls_files_refused" []
        "1 while certificates or keys on disk have changed and cannot be used; those read before stay in use.";

    CONFIG_LAST_RELOAD_SUCCESS: Gauge "propylon_config_last_reload_success" []
        "1 when the configuration last read is in force, 0 when it was refused and the one before stayed.";
    CONFIG_LAST_RELOAD_SUCCESS_TIME: Gauge "propylon_config_last_reload_success_timestamp_seconds" []
        "When a configuration was last read without an error, in seconds since 1970.";
    CONFIG_GENERATION: Gauge "propylon_config_generation" []
        "Number of the configuration in force; 1 at start, one more with each that is applied.";
    CONFIG_RELOADS: Counter "propylon_config_reloads_total" ["result"]
        "Reloads by how they ended.";

    ACCESS_LOG_DROPPED: Counter "propylon_access_log_dropped_total" []
        "Access log lines lost, because the buffer was full or a write failed.";
    ACCESS_LOG_ERRORS: Counter "propylon_access_log_errors_total" []
        "Writes to the access log that failed.";
    SPANS: Counter "propylon_spans_total" ["result"]
        "Steps of traces for the collector, by what became of them.";
    PANICS: Counter "propylon_panics_total" []
        "Panics caught; each is a defect to report.";
    BUILD_INFO: Gauge "propylon_build_info" ["version"]
        "Always 1; the version is in the label.";

    PROCESS_CPU: Counter "process_cpu_seconds_total" []
        "Processor time spent, user and system.";
    PROCESS_RESIDENT_MEMORY: Gauge "process_resident_memory_bytes" []
        "Resident memory.";
    PROCESS_OPEN_FDS: Gauge "process_open_fds" []
        "Open file descriptors.";
    PROCESS_MAX_FDS: Gauge "process_max_fds" []
        "File descriptors that may be open at once; absent without a limit.";
    PROCESS_THREADS: Gauge "process_threads" []
        "Threads of the process.";
    PROCESS_START_TIME: Gauge "process_start_time_seconds" []
        "When the process started, in seconds since 1970.";
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fmt::Write as _;

    use super::*;

    #[test]
    fn names_follow_the_conventions() {
        let mut seen = BTreeSet::new();
        for family in ALL {
            assert!(seen.insert(family.name), "{} stands twice", family.name);
            assert!(family.name.starts_with("propylon_") || family.name.starts_with("process_"), "{}", family.name);
            assert_eq!(family.kind == Kind::Counter, family.name.ends_with("_total"), "{}", family.name);
            if family.kind == Kind::Histogram {
                assert!(family.name.ends_with("_seconds"), "{}", family.name);
            }
            assert!(family.help.ends_with('.') && !family.help.contains(['\n', '|', '\\']), "{}", family.name);
        }
    }

    #[test]
    fn the_documentation_says_the_same() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/metrics.md");
        let page = std::fs::read_to_string(path).unwrap();
        let rows: Vec<(&str, &str)> = page
            .lines()
            .filter(|line| line.starts_with("| `"))
            .map(|line| line.strip_suffix(" |").and_then(|line| line.rsplit_once(" | ")).unwrap_or((line, "")))
            .collect();
        for (row, moves) in &rows {
            assert!(moves.len() > 10, "what is to be done when it moves is missing: {row}");
        }
        let written = rows.iter().fold(String::new(), |mut all, (row, _)| {
            let _ = writeln!(all, "{row} |");
            all
        });
        let expected = ALL.iter().fold(String::new(), |mut all, family| {
            let labels = family.labels.join(", ");
            let _ = writeln!(all, "| `{}` | {} | {labels} | {} |", family.name, family.kind.text(), family.help);
            all
        });
        assert!(written == expected, "the rows of {path} must be:\n{expected}");
    }
}
