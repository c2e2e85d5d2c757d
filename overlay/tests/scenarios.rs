//! The papers' claims, and ours, as seeded scenarios in the simulator.

mod scenarios {
    mod acquire;
    mod bad_root;
    mod clusters;
    mod determinism;
    mod faults;
    mod figures;
    mod hot_key;
    mod laws;
    mod levels;
    mod split;
    mod support;
}
