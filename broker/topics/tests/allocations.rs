//! Matching allocates nothing once its scratch has grown to the work.

use allocation_counter::measure;
use ringtide_topics::{MatchScratch, SessionRef, Subscription, Table, TenantId, topic_hash};

#[test]
fn a_publish_allocates_nothing() {
    let tenant = TenantId(0);
    for shapes_max in [0, 64] {
        let (mut table, mut scratch) = (Table::with_shapes_max(shapes_max), MatchScratch::new());
        for n in 0..3000 {
            let by = Subscription { session: SessionRef(n), options: 1, id: n % 7 };
            for filter in ["fan/out/x", "fan/+/x", "#"] {
                table.subscribe(tenant, filter, by);
            }
            for filter in [format!("w/{n}/+/x/#"), format!("+/{n}/#"), format!("exact/{n}")] {
                table.subscribe(tenant, &filter, by);
            }
        }
        let topics = ["fan/out/x", "w/17/a/x/b", "w/4/a/x", "exact/2999", "none", "$SYS/x"];
        let mut round = || {
            let mut hits = 0u32;
            for topic in topics {
                let hash = topic_hash(tenant, topic);
                table.matches(tenant, topic, hash, None, &mut scratch, |_| hits += 1);
            }
            hits
        };
        let first = round();
        let counted = measure(|| assert_eq!(round(), first));
        assert_eq!((first, counted.count_total), (5 * 3000, 0), "shapes_max {shapes_max}");
    }
}
