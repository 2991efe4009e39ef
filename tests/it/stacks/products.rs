//! The product API: three Uvicorn processes that are replaced after so many requests.

use super::*;

#[test]
fn processes_that_are_replaced_under_load_are_noticed_by_nobody() {
    let example = Example::start_with("products", &[("PRODUCTS_MAX_REQUESTS", "50"), ("QUEUE_TIMEOUT", "1m")]);
    let redis = RedisServer::start();
    let gateway = gateway(&example, &redis).start();
    let replaced = || example.log().iter().filter(|line| line.contains("Maximum request limit")).count();

    let (asked, ()) = under_load(
        4,
        || gateway.connect(),
        |client, number| {
            let target = match number % 4 {
                0 => "/".to_owned(),
                1 => "/health".to_owned(),
                2 => format!("/products?offset={}", number % 16),
                _ => format!("/products/{}", number % 16 + 1),
            };
            client.get(&target).expect(200);
        },
        |_| eventually_within(PATIENCE, "processes were replaced", || (replaced() >= 4).then_some(())),
    );

    assert_answered(&gateway, asked);
    let metrics = gateway.metrics();
    // All three were asked.
    let names = metrics.label_values("endpoint");
    assert_eq!(names.len(), 3);
    for name in names {
        let answered = metrics.value("propylon_upstream_requests_total", &[("endpoint", name), ("code", "2xx")]);
        assert!(answered.unwrap() >= 10.0, "{name}: {answered:?}");
    }
}

#[test]
fn a_process_that_is_drained_before_it_ends_takes_no_post_with_it() {
    let (example, redis) = (Example::start("products"), RedisServer::start());
    let gateway = gateway(&example, &redis).start();
    let endpoint = || gateway.admin_get("/status").expect(200).json()["upstreams"][0]["endpoints"][0].clone();
    let address = endpoint()["endpoint"].as_str().unwrap().to_owned();
    let basket = r#"{"items": [{"product": 2, "count": 3}]}"#;

    let (asked, ()) = under_load(
        4,
        || gateway.connect(),
        |client, number| {
            // What takes a while is between, or the address would soon have asked too much.
            client.get("/products").expect(200);
            let fields = [("Content-Type", "application/json"), ("X-Api-Key", &*number.to_string())];
            let priced = client.request("POST", "/baskets/price", &fields, basket).expect(200);
            assert_eq!(priced.json()["total"], "59.85");
        },
        |asked| {
            let until = |count: usize| eventually("answers", || (asked.load(Ordering::Relaxed) >= count).then_some(()));
            until(20);
            let drained = gateway.command(&["drain", "products", &address, "--wait", "30"]);
            assert_eq!(drained.code, 0, "{}", drained.stderr);
            // The first port is the first server's.
            example.kill_server(0);
            until(asked.load(Ordering::Relaxed) + 40);
        },
    );
    assert_answered(&gateway, 2 * asked);
    assert_eq!(endpoint()["drained"], true);
}
