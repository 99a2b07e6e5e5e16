"""The asyncio daemon: transport, streams, inference, outbox, snapshots, health. Everything that touches the world."""
