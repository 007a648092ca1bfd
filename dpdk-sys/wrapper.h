/*
 * What the dataplane uses of DPDK. build.rs allow-lists the names; everything `static` here and in DPDK's headers is
 * compiled into one C file of wrappers.
 *
 * The dr_ names are what bindgen cannot carry over by itself: 64-bit macros (it makes them 32 bits wide or drops
 * them), thread-locals, and fields that change their anonymous parents from release to release.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_ethdev.h>
#include <rte_lcore.h>
#include <rte_log.h>
#include <rte_mbuf.h>
#include <rte_mempool.h>
#include <rte_version.h>

static const uint64_t dr_rss_ip = RTE_ETH_RSS_IP;
static const uint64_t dr_rss_tcp = RTE_ETH_RSS_TCP;
static const uint64_t dr_rss_udp = RTE_ETH_RSS_UDP;
static const uint64_t dr_rss_sctp = RTE_ETH_RSS_SCTP;
static const uint64_t dr_rx_offload_scatter = RTE_ETH_RX_OFFLOAD_SCATTER;
static const uint64_t dr_rx_offload_ipv4_cksum = RTE_ETH_RX_OFFLOAD_IPV4_CKSUM;
static const uint64_t dr_tx_offload_mbuf_fast_free = RTE_ETH_TX_OFFLOAD_MBUF_FAST_FREE;
static const uint64_t dr_tx_offload_multi_segs = RTE_ETH_TX_OFFLOAD_MULTI_SEGS;
static const uint64_t dr_tx_offload_ipv4_cksum = RTE_ETH_TX_OFFLOAD_IPV4_CKSUM;
static const uint64_t dr_tx_offload_udp_cksum = RTE_ETH_TX_OFFLOAD_UDP_CKSUM;
static const uint64_t dr_tx_offload_tcp_cksum = RTE_ETH_TX_OFFLOAD_TCP_CKSUM;
static const uint64_t dr_mbuf_rx_ip_cksum_mask = RTE_MBUF_F_RX_IP_CKSUM_MASK;
static const uint64_t dr_mbuf_rx_ip_cksum_bad = RTE_MBUF_F_RX_IP_CKSUM_BAD;
static const uint64_t dr_mbuf_rx_ip_cksum_good = RTE_MBUF_F_RX_IP_CKSUM_GOOD;
static const uint64_t dr_mbuf_rx_l4_cksum_mask = RTE_MBUF_F_RX_L4_CKSUM_MASK;
static const uint64_t dr_mbuf_rx_vlan = RTE_MBUF_F_RX_VLAN;
static const uint64_t dr_mbuf_rx_vlan_stripped = RTE_MBUF_F_RX_VLAN_STRIPPED;
static const uint64_t dr_mbuf_tx_offload_mask = RTE_MBUF_F_TX_OFFLOAD_MASK;
static const uint64_t dr_mbuf_indirect = RTE_MBUF_F_INDIRECT;
static const uint64_t dr_mbuf_external = RTE_MBUF_F_EXTERNAL;

/* 24.03 moved data_off, refcnt and nb_segs into an anonymous struct: offsets are what all releases have in common. */
static const size_t dr_mbuf_size = sizeof(struct rte_mbuf);
static const size_t dr_mbuf_buf_addr = offsetof(struct rte_mbuf, buf_addr);
static const size_t dr_mbuf_data_off = offsetof(struct rte_mbuf, data_off);
static const size_t dr_mbuf_refcnt = offsetof(struct rte_mbuf, refcnt);
static const size_t dr_mbuf_nb_segs = offsetof(struct rte_mbuf, nb_segs);
static const size_t dr_mbuf_ol_flags = offsetof(struct rte_mbuf, ol_flags);
static const size_t dr_mbuf_pkt_len = offsetof(struct rte_mbuf, pkt_len);
static const size_t dr_mbuf_data_len = offsetof(struct rte_mbuf, data_len);
static const size_t dr_mbuf_buf_len = offsetof(struct rte_mbuf, buf_len);
static const size_t dr_mbuf_vlan_tci = offsetof(struct rte_mbuf, vlan_tci);
static const size_t dr_mbuf_next = offsetof(struct rte_mbuf, next);
static const size_t dr_mbuf_pool = offsetof(struct rte_mbuf, pool);

/* rte_errno is a thread-local, which Rust cannot declare. */
static inline int dr_errno(void)
{
	return rte_errno;
}

/* struct rte_eth_link became a union in later releases. 1 up, 0 down or unknown. */
static inline int dr_eth_link_is_up(uint16_t port)
{
	struct rte_eth_link link = { 0 };

	return rte_eth_link_get_nowait(port, &link) == 0 && link.link_status == RTE_ETH_LINK_UP;
}

/* Where the memory of a pool's objects would end if they lay side by side from the start of its first chunk. */
static inline uintptr_t dr_mempool_packed_end(const struct rte_mempool *pool)
{
	const struct rte_mempool_memhdr *first = STAILQ_FIRST(&pool->mem_list);
	uint64_t object = (uint64_t)pool->header_size + pool->elt_size + pool->trailer_size;

	return first == NULL ? 0 : (uintptr_t)first->addr + pool->populated_size * object;
}

/* All of DPDK's log to stderr; its own default is stdout and syslog. */
static inline int dr_log_to_stderr(void)
{
	return rte_openlog_stream(stderr);
}
