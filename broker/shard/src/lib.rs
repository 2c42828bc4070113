//! One core of the broker: the loop, connections, routing and delivery.
