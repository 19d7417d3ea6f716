"""Ends with exit code 0 if a Ray cluster has a core for each of N replicas:
connect_to_cluster.py N
"""

import sys

from distill.labels.choices import Cluster
from distill.labels.ray_cluster import connect

connect(Cluster(num_replicas=int(sys.argv[1]), tensor_parallel_size=1, cpus_per_replica=1))
