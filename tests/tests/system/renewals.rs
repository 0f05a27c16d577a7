//! Certificates are renewed, connections end, authorities rotate, and no call fails.

use bonafide_tests::site::Site;

use crate::programs::{Load, PHOTO, Shop, WEB};

/// Each certificate lives 10 s, so in the time of three of them every connection has come to its end at least once.
#[test]
fn renewals_and_ends_of_connections_fail_no_call() {
    let site = Site::started();
    let node = site.join("n1");
    let shop = Shop::open(&site, &node, "10s");
    let load = Load::start(&shop.web_address);
    load.until_renewed(4);
    load.none_failed();
    let answer = shop.call().unwrap();
    assert_eq!((answer["from"].as_str(), answer["for"].as_str()), (Some(PHOTO), Some(WEB)));
}

/// F-24: the issuing and the JWT authority rotate in the middle of traffic. Two minutes is the shortest life of an
/// authority; its successor takes over before half of that is gone.
/// (I-05)
#[test]
fn f24_authorities_rotate_under_traffic() {
    let mut site = Site::new();
    site.ca_arguments = ["--issuing-authority-ttl", "2m", "--jwt-authority-ttl", "2m"].map(str::to_owned).to_vec();
    site.start_ca();
    let node = site.join("n1");
    let shop = Shop::open(&site, &node, "20s");
    let active = || {
        let authorities = site.ca(&["authority", "list", "--output", "json"]).success().json();
        let of = |kind: &str| {
            let all = authorities["authorities"].as_array().unwrap().iter();
            let mut active = all.filter(|one| one["kind"] == kind && one["state"] == "active");
            active.next().map(|one| one["id"].as_str().unwrap().to_owned()).unwrap()
        };
        (of("issuing"), of("jwt"))
    };
    let before = active();
    let load = Load::start(&shop.web_address);
    let rotated = |seen: &crate::programs::Seen| {
        seen.certificates.len() % 2 == 1 && {
            let now = active();
            now.0 != before.0 && now.1 != before.1
        }
    };
    load.until("rotation of both authorities", rotated);
    load.until_renewed(2);
    load.none_failed();
    site.ca(&["audit", "verify"]).success();
}
