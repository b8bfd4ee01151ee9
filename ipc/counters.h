/* counters - what the broker counts. One list; `cairn status`, --json and the Prometheus page are made from it.
 * X(name, kind, help): kind T = total (only grows), G = gauge. Order is frozen: a counter's index travels. */
#ifndef CRN_IPC_COUNTERS_H
#define CRN_IPC_COUNTERS_H

#define CRN_COUNTER_MAP(X)                                                                         \
    X(uptime_seconds, G, "seconds since the broker started")                                       \
    X(memory_limit_bytes, G, "--memory")                                                           \
    X(arena_bytes, G, "memory in arenas")                                                          \
    X(used_bytes, G, "extents in use, rounded to granules")                                        \
    X(payload_bytes, G, "payloads in arenas")                                                      \
    X(largest_free_bytes, G, "largest free run")                                                   \
    X(landing_bytes, G, "memory in landing zones")                                                 \
    X(entries, G, "visible entries")                                                               \
    X(leases, G, "leases held")                                                                    \
    X(sessions, G, "connected workers and tools")                                                  \
    X(drafts, G, "drafts being written")                                                           \
    X(plans, G, "plans stored")                                                                    \
    X(match_total, T, "match and attach requests")                                                 \
    X(match_exact_total, T, "answered by an entry of the same model")                              \
    X(match_approx_total, T, "answered by a sibling's entry and a plan")                           \
    X(match_none_total, T, "answered by nothing")                                                  \
    X(refused_no_plan_total, T, "cached by a sibling, but no plan for the pair")                   \
    X(refused_quality_total, T, "every plan below the quality floor")                              \
    X(refused_other_total, T, "refused for another reason")                                        \
    X(attach_total, T, "leases granted")                                                           \
    X(shared_bytes_total, T, "payload bytes attached instead of copied or recomputed")             \
    X(shared_tokens_total, T, "tokens reused")                                                     \
    X(lease_expired_total, T, "leases ended by time")                                              \
    X(lease_reaped_total, T, "leases ended by a worker's death")                                   \
    X(session_reaped_total, T, "sessions ended by a worker's death")                               \
    X(draft_total, T, "drafts begun")                                                              \
    X(draft_aborted_total, T, "drafts given up or dropped")                                        \
    X(draft_refused_total, T, "drafts refused: no room, or somebody else publishes")               \
    X(commit_total, T, "entries published")                                                        \
    X(compress_total, T, "entries compressed")                                                     \
    X(gathered_bytes_total, T, "bytes copied into arenas")                                         \
    X(evicted_total, T, "entries evicted")                                                         \
    X(evicted_bytes_total, T, "bytes evicted")                                                     \
    X(full_total, T, "allocations refused after eviction found nothing")                           \
    X(stale_total, T, "references to something replaced")                                          \
    X(bad_message_total, T, "messages refused as malformed")                                       \
    X(denied_total, T, "peers refused")                                                            \
    X(spilled_total, T, "payloads spilled")                                                        \
    X(spilled_bytes_total, T, "bytes spilled")                                                     \
    X(restored_total, T, "payloads restored")                                                      \
    X(restored_bytes_total, T, "bytes restored")                                                   \
    X(restore_failed_total, T, "restores that failed: the layer became a miss")                    \
    X(corrupt_total, T, "checksums that did not fit")                                              \
    X(io_error_total, T, "storage errors")                                                         \
    X(nvme_limit_bytes, G, "room on NVMe")                                                         \
    X(nvme_used_bytes, G, "extents in use on NVMe")                                                \
    X(hits_device_total, T, "attached payloads found on the device")                               \
    X(hits_host_total, T, "attached payloads found in host memory")                                \
    X(hits_nvme_total, T, "attached payloads found on NVMe")                                       \
    X(spill_queue, G, "spills waiting")                                                            \
    X(restore_queue, G, "restores waiting")                                                        \
    X(spill_bytes_per_second, G, "measured rate of spills")                                        \
    X(restore_bytes_per_second, G, "measured rate of restores")                                    \
    X(recovered_entries, G, "entries that came back at start")                                     \
    X(dropped_entries, G, "entries of the catalogue that did not check at start")                  \
    X(choice_plan_total, T, "readers that used the best plan")                                     \
    X(choice_queue_total, T, "readers that took the cheapest plan because requests waited")        \
    X(choice_deadline_total, T, "readers that took the best plan in time")                         \
    X(choice_late_total, T, "readers that took the quickest plan, too late")                       \
    X(choice_break_even_total, T, "readers that prefilled because it was quicker")                 \
    X(host_tier_limit_bytes, G, "--host-tier")                                                     \
    X(host_tier_used_bytes, G, "extents in use in host memory below a device")                     \
    X(host_spilled_total, T, "payloads moved from the device to host memory")                      \
    X(host_spilled_bytes_total, T, "bytes moved from the device to host memory")                   \
    X(host_restored_total, T, "payloads moved back from host memory to the device")                \
    X(host_restored_bytes_total, T, "bytes moved back from host memory to the device")

enum crn_counter {
#define CRN_COUNTER_ENUM(name, kind, help) CRN_COUNTER_##name,
    CRN_COUNTER_MAP(CRN_COUNTER_ENUM)
#undef CRN_COUNTER_ENUM
        CRN_COUNTER_COUNT
};

#endif
