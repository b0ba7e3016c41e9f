"""The device mesh, and how state and batches are sharded over it."""

from jaxnets.parallel.mesh import MeshShape as MeshShape
from jaxnets.parallel.mesh import check_batch as check_batch
from jaxnets.parallel.mesh import make_mesh as make_mesh
from jaxnets.parallel.mesh import placement as placement
from jaxnets.parallel.mesh import replicated as replicated
from jaxnets.parallel.partition import Rule as Rule
from jaxnets.parallel.partition import describe as describe
from jaxnets.parallel.partition import shardings as shardings
