//! What the operator counts.

use std::sync::LazyLock;

use prometheus::{
    Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, register_histogram,
    register_histogram_vec, register_int_counter, register_int_counter_vec, register_int_gauge,
    register_int_gauge_vec,
};

macro_rules! metrics {
    ($($name:ident: $kind:ty = $register:ident($metric:literal, $help:literal $(, $more:expr)*);)*) => {
        $(
            #[doc = $help]
            pub(crate) static $name: LazyLock<$kind> = LazyLock::new(|| {
                // Names are unique and valid: the test below registers them all.
                $register!($metric, $help $(, $more)*).expect(concat!($metric, " registers"))
            });
        )*

        /// Registers everything, so that a scrape shows zeros instead of nothing.
        pub(crate) fn register() {
            $(LazyLock::force(&$name);)*
        }
    };
}

const SECONDS: [f64; 10] = [0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 60.0, 120.0];

metrics! {
    LEADER: IntGauge = register_int_gauge("im_operator_leader", "1 while this replica leads.");
    RECONCILES: IntCounterVec = register_int_counter_vec("im_operator_reconciles_total", "Visits to an ImCluster, by result: settled (nothing was written), changed, waiting (for a change of the spec or the namespace), failed.", &["result"]);
    RECONCILE_SECONDS: HistogramVec = register_histogram_vec("im_operator_reconcile_seconds", "How long a visit took, by result.", &["result"], SECONDS.to_vec());
    REQUESTS: IntCounterVec = register_int_counter_vec("im_operator_requests_total", "Calls to the API server, by verb, kind and answer (an HTTP status, or why there was none).", &["verb", "kind", "answer"]);
    WRITES: IntCounterVec = register_int_counter_vec("im_operator_writes_total", "Writes to the API server, by verb and kind. A settled cluster causes none but those of the operator's own lease.", &["verb", "kind"]);
    WATCH_SEEN: IntGaugeVec = register_int_gauge_vec("im_operator_watch_seen_timestamp_seconds", "When a watch last said anything, bookmarks included: its age is time() minus this.", &["kind"]);
    WATCH_UNREAD: IntGaugeVec = register_int_gauge_vec("im_operator_watch_unread", "1 until a watch has told all there is for the first time, by kind and namespace (empty: all namespaces): ImClusters there wait for it.", &["kind", "namespace"]);
    WATCH_ERRORS: IntCounterVec = register_int_counter_vec("im_operator_watch_errors_total", "Watches that broke and were begun again.", &["kind"]);
    INVALID: IntCounterVec = register_int_counter_vec("im_operator_invalid_objects_total", "Objects seen that could not be read.", &["kind"]);
    EVENTS: IntCounterVec = register_int_counter_vec("im_operator_events_total", "Events told, by reason.", &["reason"]);
    FAILURES: IntCounterVec = register_int_counter_vec("im_operator_failures_total", "Failed visits, by reason.", &["reason"]);
    BACKING_OFF: IntGauge = register_int_gauge("im_operator_backing_off", "ImClusters whose last visit failed.");
    CONDITION: IntGaugeVec = register_int_gauge_vec("im_operator_cluster_condition", "An ImCluster's conditions, by type and reason: 1 where it is True, 0 False, -1 Unknown.", &["namespace", "name", "type", "reason"]);
    FOREIGN: IntGaugeVec = register_int_gauge_vec("im_operator_foreign", "1 for an ImCluster that this operator sees and leaves alone, as it is another one's (its annotation imcluster.io/operator).", &["namespace", "name"]);
    TURNS_WAITING: IntGauge = register_int_gauge("im_operator_turns_waiting", "ImClusters whose pods wait for what this build of the operator changes in them: it goes from one to the next when that is whole again.");
    DRAINS: IntGaugeVec = register_int_gauge_vec("im_operator_drains", "connect pods that drain, by ImCluster.", &["namespace", "name"]);
    DRAIN_READS: IntCounterVec = register_int_counter_vec("im_operator_drain_reads_total", "Questions to connect pods for their connections, by outcome.", &["outcome"]);
    PICKED_OTHERWISE: IntCounter = register_int_counter("im_operator_picked_otherwise_total", "connect pods that ended though another was marked to go: Kubernetes takes the mark as a hint. They drain just as well.");
    REDIS_UP: IntGaugeVec = register_int_gauge_vec("im_operator_redis_up", "1 for a redis that answers, 0 for one that does not.", &["namespace", "name", "pod"]);
    REDIS_MASTER: IntGaugeVec = register_int_gauge_vec("im_operator_redis_master", "1 for a redis that is a master.", &["namespace", "name", "pod"]);
    REDIS_REPLICAS: IntGaugeVec = register_int_gauge_vec("im_operator_redis_replicas", "Replicas connected to a redis.", &["namespace", "name", "pod"]);
    REDIS_OFFSET: IntGaugeVec = register_int_gauge_vec("im_operator_redis_offset_bytes", "How far a redis has got in the history of writes: a replica's lag is the master's minus its own.", &["namespace", "name", "pod"]);
    REDIS_KEYS: IntGaugeVec = register_int_gauge_vec("im_operator_redis_keys", "Keys of a redis.", &["namespace", "name", "pod"]);
    REDIS_MEMORY: IntGaugeVec = register_int_gauge_vec("im_operator_redis_used_memory_bytes", "What a redis' data and buffers take.", &["namespace", "name", "pod"]);
    REDIS_MAX_MEMORY: IntGaugeVec = register_int_gauge_vec("im_operator_redis_max_memory_bytes", "What they may take, 0 for no limit; beyond it writes are refused.", &["namespace", "name", "pod"]);
    REDIS_CLIENTS: IntGaugeVec = register_int_gauge_vec("im_operator_redis_clients", "Connections of clients to a redis.", &["namespace", "name", "pod"]);
    REDIS_COMMANDS: IntGaugeVec = register_int_gauge_vec("im_operator_redis_commands", "Commands that a redis has carried out since it began; rate() shows how busy it is.", &["namespace", "name", "pod"]);
    REDIS_UPTIME: IntGaugeVec = register_int_gauge_vec("im_operator_redis_uptime_seconds", "Since when a redis runs.", &["namespace", "name", "pod"]);
    REDIS_STORED: IntGaugeVec = register_int_gauge_vec("im_operator_redis_stored", "1 while a redis' last write of its file went well.", &["namespace", "name", "pod"]);
    HAND_OVER_SECONDS: Histogram = register_histogram("im_operator_redis_hand_over_seconds", "For how long a redis master refused writes when it handed over to a replica.", SECONDS.to_vec());
    HAND_OVERS_FAILED: IntCounter = register_int_counter("im_operator_redis_hand_overs_failed_total", "Hand-overs of redis after which the master was the same as before: tried again, less and less often.");
    SENTINEL_UP: IntGaugeVec = register_int_gauge_vec("im_operator_sentinel_up", "1 for a Sentinel that answers and knows the master, 0 otherwise.", &["namespace", "name", "pod"]);
    ETCD_VOTES: IntGaugeVec = register_int_gauge_vec("im_operator_etcd_member_votes", "1 for an etcd member that is part of the quorum, 0 otherwise.", &["namespace", "name", "pod"]);
    ETCD_SIZE: IntGaugeVec = register_int_gauge_vec("im_operator_etcd_size_bytes", "What the file of an etcd member's database takes. At the quota, three quarters of the volume and 2 GiB at most, writes are refused.", &["namespace", "name", "pod"]);
    ETCD_IN_USE: IntGaugeVec = register_int_gauge_vec("im_operator_etcd_in_use_bytes", "What of that holds something; the rest is given back where it is more than half.", &["namespace", "name", "pod"]);
    ETCD_FULL: IntGaugeVec = register_int_gauge_vec("im_operator_etcd_full", "1 while an etcd member says that its quota is used up.", &["namespace", "name", "pod"]);
    CERTIFICATES: IntCounterVec = register_int_counter_vec("im_operator_certificates_taken_total", "Renewed certificates that redis was told to read, or for which a Sentinel was restarted.", &["tier"]);
    STATUS_HELD: IntCounter = register_int_counter("im_operator_status_held_total", "Changed counts not written because they moved too little or too soon after the last time.");
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_metric_registers() {
        super::register();
        super::register();
    }
}
