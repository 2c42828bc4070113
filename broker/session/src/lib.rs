//! Pure MQTT session state machines: no socket, clock or store inside.
