//! Discovery's metrics.

use std::sync::LazyLock;

use prometheus::{
    IntCounterVec, IntGauge, IntGaugeVec, register_int_counter_vec, register_int_gauge,
    register_int_gauge_vec,
};

pub(crate) static REGISTERED: LazyLock<IntGauge> = LazyLock::new(|| {
    let help = "1 while this process's entry stands in etcd under a living lease.";
    register_int_gauge!("im_discovery_registered", help).expect("registered once")
});

pub(crate) static ERRORS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    let help = "Failures of talking to etcd, by what was tried: register or watch; each is followed by another try.";
    register_int_counter_vec!("im_discovery_etcd_errors_total", help, &["task"])
        .expect("registered once")
});

pub(crate) static NODES: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    let help = "Processes found in etcd, by kind.";
    register_int_gauge_vec!("im_discovery_nodes", help, &["kind"]).expect("registered once")
});

pub(crate) static WATCHING: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    let help =
        "1 while changes of this kind's entries are heard; 0: the last known ones are in use.";
    register_int_gauge_vec!("im_discovery_watching", help, &["kind"]).expect("registered once")
});

pub(crate) static SET_ASIDE: LazyLock<IntCounterVec> = LazyLock::new(|| {
    let help = "Times an endpoint was set aside because it failed, by kind.";
    register_int_counter_vec!("im_discovery_set_aside_total", help, &["kind"])
        .expect("registered once")
});
